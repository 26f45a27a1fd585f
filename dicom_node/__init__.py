"""The imaging half: receives, archives, reads, writes and sends DICOM. No torch."""
