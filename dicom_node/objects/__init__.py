"""Writers of the DICOM objects that we publish: one module an IOD, one function a DICOM module."""
