"""What marks a generated series has beside the attributes that say synthetic in each instance."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

_DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


class Depicted(Enum):
    """What a picture shows, as far as its marks have to tell: a generated image alone, or one beside its real source.

    References
    ----------
    IPTC NewsCodes, scheme Digital Source Type.
    """

    GENERATED = "trainedAlgorithmicMedia"
    BESIDE_SOURCE = "compositeWithTrainedAlgorithmicMedia"

    @property
    def source_type(self) -> str:
        """URI of the Digital Source Type."""
        return _DIGITAL_SOURCE_TYPE + self.value


@dataclass(frozen=True, slots=True)
class Marks:
    """Marks that a site may add; a statement tells which of them a series has.

    Attributes
    ----------
    visible : str
        ``none``, ``overlay`` or ``burned-in``: how the images say SYNTHETIC to a person.
    watermark : bool
        Whether the voxels carry the site's watermark.
    signing_certificate : str
        ``sha256:`` digest of the certificate (DER) whose DICOM Digital Signature each instance carries; empty: none does.
    """

    visible: str = "none"
    watermark: bool = False
    signing_certificate: str = ""
