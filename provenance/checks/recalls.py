"""Whether an output was taken back, by a signed notice or by a superseding Provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from domain.errors import VerificationFailed
from provenance.checks.names import NOT_SIGNED
from provenance.recall_as_fhir import is_recall_of, require_signed
from provenance.recall_notice import RecallNotice, read_notice
from provenance.report import Answer, no, unknown, yes
from provenance.signatures.keyring import require_valid_at
from provenance.signing import key_id_of
from provenance.statement import SignedClaims, provenance_reference


def check_recalled(
    signed: SignedClaims | None,
    attestation_digest: str,
    notices: Sequence[str],
    superseding: Sequence[Mapping[str, Any]],
    keys: Mapping[str, Any],
    *,
    asked: bool,
) -> Answer:
    """Say whether a recall that was given names the output.

    Parameters
    ----------
    notices : sequence of str
        Recall notices: compact JWS.
    superseding : sequence of mapping
        Provenance resources that may take it back.
    asked : bool
        True where the FHIR server that holds the output's Provenance was asked for them: nobody else knows that there is none.
    """
    if signed is None:
        return unknown(NOT_SIGNED)
    read, refused = _read(notices, keys)
    recalled = next((str(one) for one in read if _names(one, signed, attestation_digest)), "")
    taken_back, unsigned = _superseded(superseding, provenance_reference(signed.request_id), keys)
    if recalled or taken_back:
        return no(recalled or taken_back)
    if refused or unsigned:
        return unknown(
            f"{refused + unsigned} recalls of it, or of others, were given that no trusted key signed before it had stopped"
        )
    if asked:
        return yes("the site's FHIR server holds no recall of it")
    if read:
        return unknown(f"{len(read)} recall notices were given, and none of them names it; the site may have made others")
    return unknown("nobody was asked: a recall is known to the site that published it")


def _superseded(superseding: Sequence[Mapping[str, Any]], reference: str, keys: Mapping[str, Any]) -> tuple[str, int]:
    """When and why a signed Provenance took another one back, empty where none did; and how many say so that nobody signed."""
    recalls = [one for one in superseding if is_recall_of(one, reference)]
    signed = [one for one in recalls if _is_signed(one, keys)]
    if not signed:
        return "", len(recalls)
    reason = (signed[0].get("reason") or [{}])[0].get("text", "no reason")
    return f"recalled on {signed[0]['recorded']} because: {reason}", len(recalls) - len(signed)


def _is_signed(provenance: Mapping[str, Any], keys: Mapping[str, Any]) -> bool:
    """Whether a trusted key signed it while it was valid: what anybody can write takes nothing back, however broken it is."""
    try:
        kid = require_signed(provenance, keys)
        require_valid_at(kid, keys, datetime.fromisoformat(provenance["recorded"]))
    # The others come from values that have no canonical form.
    except (VerificationFailed, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return True


def _read(notices: Sequence[str], keys: Mapping[str, Any]) -> tuple[list[RecallNotice], int]:
    read: list[RecallNotice] = []
    for jws in notices:
        try:
            notice = read_notice(jws, keys)
            require_valid_at(key_id_of(jws.strip()), keys, datetime.fromisoformat(notice.recalled_at))
            read.append(notice)
        except (VerificationFailed, ValueError, TypeError):
            continue  # counted: what nobody trusted signed says nothing
    return read, len(notices) - len(read)


def _names(notice: RecallNotice, signed: SignedClaims, attestation_digest: str) -> bool:
    by_series = any(notice.of_series(series.series_uid) for series in signed.all_series)
    by_digest = bool(attestation_digest) and any(one.attestation == attestation_digest for one in notice.recalled)
    return bool(by_series or by_digest or notice.of_request(signed.request_id))
