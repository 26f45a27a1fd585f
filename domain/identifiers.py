"""Identifiers of DICOM and FHIR, validated once, and the rule that derives ours from a request."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import NewType

from domain.errors import UnreadableInstance

StudyUid = NewType("StudyUid", str)
SeriesUid = NewType("SeriesUid", str)
InstanceUid = NewType("InstanceUid", str)
AccessionNumber = NewType("AccessionNumber", str)

# PS3.5 section 9.1: components of digits joined by dots, no leading zeros, 64 characters at most.
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_MAX_UID_LENGTH = 64

# All that we create is named by uuid5 below this namespace, so a repeated step names the same thing again.
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://veraicon.dev/requests")


def require_uid(value: object, *, attribute: str) -> str:
    """Return `value` as a well-formed DICOM UID.

    Parameters
    ----------
    value : object
        What was found in the attribute.
    attribute : str
        Keyword of the attribute, for the error (``SOPInstanceUID``).

    Raises
    ------
    UnreadableInstance
        If the value is no UID. A UID names files and rows, so nothing else may pass.

    References
    ----------
    DICOM PS3.5 section 9.1.

    Examples
    --------
    >>> require_uid("1.2.840.10008.1.1", attribute="SOPClassUID")
    '1.2.840.10008.1.1'
    """
    text = str(value or "").strip("\0 ")
    if len(text) > _MAX_UID_LENGTH or not _UID.fullmatch(text):
        raise UnreadableInstance(
            found=f"a value of {len(text)} characters in {attribute} that is no UID",
            allowed="digits and dots, no leading zeros, at most 64 characters (PS3.5 9.1)",
            action="send the instance again with a valid UID",
        )
    return text


def derive_uuid(request_id: str, *names: str) -> uuid.UUID:
    """Return the UUID that belongs to a request and a fixed name; the same arguments give the same UUID."""
    return uuid.uuid5(_NAMESPACE, "\x1f".join((request_id, *names)))


def derive_uid(request_id: str, *names: str) -> str:
    """Return a DICOM UID below 2.25 derived from a request and a fixed name.

    References
    ----------
    DICOM PS3.5 section B.2: UUID derived UIDs.
    """
    return f"2.25.{derive_uuid(request_id, *names).int}"


def derive_fhir_id(request_id: str, *names: str) -> str:
    """Return a FHIR id derived from a request and a fixed name; never numeric only, 36 characters."""
    return str(derive_uuid(request_id, *names))


@dataclass(frozen=True, slots=True)
class PatientIdentifier:
    """A patient's identifier together with who issued it.

    Attributes
    ----------
    value : str
        As in Patient ID (0010,0020) or ``Patient.identifier.value``.
    system : str
        URI of the issuer (``Patient.identifier.system``); empty where the source names none.
    """

    value: str
    system: str = ""

    def __repr__(self) -> str:
        """Hide the value: a repr may reach a log."""
        return f"PatientIdentifier(value=<hidden>, system={self.system!r})"
