"""DICOMweb over the archive: QIDO-RS, WADO-RS and STOW-RS (PS3.18), as thin routes over `dicom_node`."""
