"""Keys, certificates, and the signatures that other fields verify: DICOM Digital Signatures, Content Credentials."""
