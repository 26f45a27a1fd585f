"""DICOMweb: queries, media types, multipart bodies, frames and pictures; and a peer that speaks it."""
