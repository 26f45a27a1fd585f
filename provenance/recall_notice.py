"""The signed word that outputs are recalled: which, when, by whom and why. It names no patient.

Whoever holds a copy needs only this file and the public keys to know that what it holds was taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any

from domain.errors import VerificationFailed
from provenance.canonical import instant, require_digest
from provenance.signing import RECALL_KIND, SigningKey, verify

RECALL_VERSION = "veraicon-recall/1"
NOTICE_SUFFIX = ".recall.jws"


class RecallReason(Enum):
    """Why outputs are taken back."""

    QUALITY = "quality"
    SAFETY = "safety"
    CONSENT = "consent"
    OTHER = "other"

    @property
    def words(self) -> str:
        """The reason as a person reads it."""
        return {
            RecallReason.QUALITY: "quality of the output",
            RecallReason.SAFETY: "safety of patients",
            RecallReason.CONSENT: "consent to the use of the source was withdrawn",
            RecallReason.OTHER: "another reason",
        }[self]


@dataclass(frozen=True, slots=True)
class RecalledOutput:
    """One output that is taken back.

    Attributes
    ----------
    series_uids : tuple of str
        Every series of the request: images, segmentation, summary.
    attestation : str
        ``sha256:`` digest of the attestation's JWS; empty where the output was sent and never attested.
    """

    request_id: str
    study_uid: str
    series_uids: tuple[str, ...]
    attestation: str = ""


@dataclass(frozen=True, slots=True)
class RecallNotice:
    """What a recall says.

    Attributes
    ----------
    selection : mapping
        What was asked for, with salted tokens in place of identifiers of patients.
    """

    recall_id: str
    recalled_at: str
    by: str
    reason: RecallReason
    note: str
    selection: Mapping[str, Any]
    recalled: tuple[RecalledOutput, ...]

    def of_series(self, series_uid: str) -> RecalledOutput | None:
        """Return the recalled output to which a series belongs."""
        return next((one for one in self.recalled if series_uid in one.series_uids), None)

    def of_request(self, request_id: str) -> RecalledOutput | None:
        """Return the recalled output of a request."""
        return next((one for one in self.recalled if one.request_id == request_id), None)

    def __str__(self) -> str:
        why = f"{self.reason.words}: {self.note}" if self.note else self.reason.words
        return f"recalled on {self.recalled_at} by {self.by}, {why}"


def sign_notice(
    key: SigningKey,
    *,
    recall_id: str,
    recalled_at: datetime,
    by: str,
    reason: RecallReason,
    note: str,
    selection: Mapping[str, Any],
    recalled: Iterable[RecalledOutput],
) -> str:
    """Return the notice as a compact JWS; the same arguments give the same bytes.

    Raises
    ------
    AttestationError
        If the time has no zone, or a digest another form.
    """
    outputs = [
        {
            "requestId": one.request_id,
            "studyUid": one.study_uid,
            "seriesUids": list(one.series_uids),
            "attestation": require_digest(one.attestation) if one.attestation else "",
        }
        for one in recalled
    ]
    claims = {
        "version": RECALL_VERSION,
        "recallId": recall_id,
        "recalledAt": instant(recalled_at),
        "by": by,
        "reason": reason.value,
        "note": note,
        "selection": dict(selection),
        "recalled": outputs,
    }
    return key.sign(claims, kind=RECALL_KIND)


def read_notice(jws: str, keys: Mapping[str, Any]) -> RecallNotice:
    """Return what a signed notice says.

    Parameters
    ----------
    keys : mapping
        JWK Set of the keys that the reader trusts.

    Raises
    ------
    VerificationFailed
        If it is no notice of a trusted key, or of a version that is not known here.
    """
    claims = verify(jws.strip(), keys, kind=RECALL_KIND)
    if claims.get("version") != RECALL_VERSION:
        raise _malformed(f"a recall notice of the version {str(claims.get('version'))[:40]!r}")
    try:
        return RecallNotice(
            recall_id=str(claims["recallId"]),
            recalled_at=str(claims["recalledAt"]),
            by=str(claims["by"]),
            reason=RecallReason(claims["reason"]),
            note=str(claims["note"]),
            selection=dict(claims["selection"]),
            recalled=tuple(
                RecalledOutput(
                    str(one["requestId"]), str(one["studyUid"]), tuple(map(str, one["seriesUids"])), str(one["attestation"])
                )
                for one in claims["recalled"]
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed("a recall notice that lacks a member") from error


def _malformed(found: str) -> VerificationFailed:
    return VerificationFailed(
        found=found, allowed=RECALL_VERSION, action="verify with a release of Veraicon that knows this version"
    )
