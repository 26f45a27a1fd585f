"""One instance against the statement and the proof that it carries."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydicom.dataset import Dataset

from domain.errors import VerificationFailed
from domain.series import GeneratedInstance
from provenance.as_dicom import EmbeddedStatement, extract
from provenance.checks import names
from provenance.digesting.around_dataset import require_nothing_undigested
from provenance.digesting.series_tree import InstanceProof, require_in_tree
from provenance.digests import can_decode, dataset_digest, has_pixels, pixel_digest
from provenance.report import Answer, Claim, judge, no, unknown, yes
from provenance.signatures.dicom_signature import check_signature
from provenance.signing import STATEMENT_KIND, key_id_of, verify
from provenance.statement import SignedClaims, StatedSeries, from_claims, provenance_reference

_NO_ENTRY = "no entry in a signed series says what it should be"
# Distinct statements that are kept while a folder is verified; one request has one.
_KEPT_STATEMENTS = 256


class Statements:
    """Statements whose signature was verified, each once.

    Parameters
    ----------
    keys : mapping
        JWK Set of the trusted keys.
    """

    def __init__(self, keys: Mapping[str, Any]) -> None:
        self._keys = keys
        self._kept: OrderedDict[str, tuple[str, SignedClaims]] = OrderedDict()

    def read(self, jws: str) -> SignedClaims:
        """Return the claims of a statement.

        Raises
        ------
        VerificationFailed
            If no trusted key signed it, or it is no statement.
        """
        return self._read(jws)[1]

    def same(self, jws: str) -> str:
        """Return the one text of a statement that was read: a thousand instances need not hold a thousand copies."""
        return self._read(jws)[0]

    def _read(self, jws: str) -> tuple[str, SignedClaims]:
        if jws not in self._kept:
            self._kept[jws] = jws, from_claims(verify(jws, self._keys, kind=STATEMENT_KIND))
            while len(self._kept) > _KEPT_STATEMENTS:
                self._kept.popitem(last=False)
        return self._kept[jws]


@dataclass(frozen=True, slots=True)
class InstanceFinding:
    """What was found of one instance; small, so that a process can hand it to another.

    Attributes
    ----------
    claims : tuple of Claim
        One for each of `names.INSTANCE_CLAIMS`.
    jws : str
        The statement whose signature holds; empty where there is none.
    proof : InstanceProof or None
        The instance's own proof, where it leads to the signed root.
    series_uid, sop_instance_uid : str
        As the instance itself says; empty where it does not.
    """

    claims: tuple[Claim, ...]
    jws: str
    proof: InstanceProof | None
    series_uid: str
    sop_instance_uid: str


def examine(ds: Dataset, statements: Statements) -> InstanceFinding:
    """Return what can be said of an instance by itself; never raises, whatever `ds` is."""
    digest = _digest_of(ds)
    block: list[EmbeddedStatement] = []
    held: list[SignedClaims] = []
    proven: list[tuple[StatedSeries, InstanceProof]] = []
    claims = [
        judge(names.PRESENT, partial(_check_present, ds, block)),
        judge(names.SIGNED, partial(_check_signed, block, statements, held)),
    ]
    signed = held[0] if held else None
    claims.append(judge(names.IN_SERIES, partial(_check_in_series, block, signed, proven)))
    series, proof = proven[0] if proven else (None, None)
    stated = proof.instance if proof else None
    claims += [
        judge(names.NAMED, partial(_check_named, ds, series, stated)),
        judge(names.PIXELS, partial(_check_pixels, ds, stated)),
        judge(names.ATTRIBUTES, partial(_check_attributes, digest, stated)),
        judge(names.MARKS, partial(_check_marks, ds)),
        judge(names.DICOM_SIGNATURE, partial(_check_dicom_signature, ds, signed)),
    ]
    jws = statements.same(block[0].jws) if signed else ""
    return InstanceFinding(tuple(claims), jws, proof, _text_of(ds, "SeriesInstanceUID"), _text_of(ds, "SOPInstanceUID"))


def unreadable(why: str) -> InstanceFinding:
    """Return the finding for a file that is no instance at all."""
    broken = Claim(names.PRESENT, judge("", lambda: no(why)).truth, why)
    rest = (judge(name, lambda: unknown("the file cannot be read")) for name in names.INSTANCE_CLAIMS[1:])
    return InstanceFinding((broken, *rest), "", None, "", "")


def _check_present(ds: Dataset, block: list[EmbeddedStatement]) -> Answer:
    found = extract(ds)
    if found is None:
        return no("the instance carries no statement: it is not ours, or the statement was taken out")
    block.append(found)
    return yes("the instance carries a statement")


def _check_signed(block: list[EmbeddedStatement], statements: Statements, held: list[SignedClaims]) -> Answer:
    """Verify the signature; what stands beside the JWS in the block has to agree with it."""
    if not block:
        return unknown("there is no statement to verify")
    found = block[0]
    signed = statements.read(found.jws)
    if found.key_id != key_id_of(found.jws):
        return no("the block names another key than the signature")
    # Nobody signs the address of a server before it: with one, the block would send its reader wherever somebody likes.
    if found.provenance_reference != provenance_reference(signed.request_id):
        return no("the block names the Provenance of another request")
    held.append(signed)
    return yes(f"signed by the trusted key {found.key_id}")


def _check_in_series(
    block: list[EmbeddedStatement], signed: SignedClaims | None, proven: list[tuple[StatedSeries, InstanceProof]]
) -> Answer:
    """Follow the proof to the root of one of the statement's series; whether it is the instance's own, the next claim says."""
    if signed is None:
        return unknown(names.NOT_SIGNED)
    proof = block[0].proof
    wrong: VerificationFailed | None = None
    for series in signed.all_series:
        try:
            require_in_tree(proof, series.count, series.root)
        except VerificationFailed as error:
            wrong = wrong or error
        else:
            proven.append((series, proof))
            return yes("the entry of the instance leads to the signed root of its series")
    return no(wrong.found if wrong else "the statement names no series")


def _check_named(ds: Dataset, series: StatedSeries | None, stated: GeneratedInstance | None) -> Answer:
    if series is None or stated is None:
        return unknown(_NO_ENTRY)
    if (ds.SeriesInstanceUID, ds.StudyInstanceUID) != (series.series_uid, series.study_uid):
        return no("the statement names this instance in another series")
    if (ds.SOPInstanceUID, ds.SOPClassUID) != (stated.sop_instance_uid, stated.sop_class_uid):
        return no("the entry is that of another instance")
    return yes("the statement names this instance, series and study")


def _check_pixels(ds: Dataset, stated: GeneratedInstance | None) -> Answer:
    if stated is None:
        return unknown(_NO_ENTRY)
    if stated.pixel_digest is None or not has_pixels(ds):
        return _without_pixels(ds, stated)
    if not can_decode(ds):
        return unknown("no decoder for the transfer syntax of these pixels is installed here")
    return _same(pixel_digest(ds) == stated.pixel_digest, "pixel values")


def _digest_of(ds: Dataset) -> str | Exception:
    """Digest the attributes before any of them is decoded: as they were read, they are quickly digested."""
    try:
        require_nothing_undigested(ds)
        return dataset_digest(ds)
    except Exception as error:  # noqa: BLE001 (the stated edge; the claim about the attributes raises it again)
        return error


def _check_attributes(digest: str | Exception, stated: GeneratedInstance | None) -> Answer:
    if stated is None:
        return unknown(_NO_ENTRY)
    if isinstance(digest, Exception):
        raise digest
    return _same(digest == stated.dataset_digest, "attributes beside the pixels")


def _same(same: bool, what: str) -> Answer:
    return yes(f"the {what} are as they were published") if same else no(f"the {what} are not those that were published")


def _without_pixels(ds: Dataset, stated: GeneratedInstance) -> Answer:
    """A document has none, by the statement and by itself; its content is among the attributes."""
    if stated.pixel_digest is not None:
        return no("the pixels that were published are gone")
    if has_pixels(ds):
        return no("pixels in an object that was published without any")
    return yes("published as a document, without pixels: its content is among the attributes")


def _check_marks(ds: Dataset) -> Answer:
    image_type = ds.get("ImageType") or ["" if has_pixels(ds) else "DERIVED"]  # a document has no Image Type
    lacking = [
        name
        for name, kept in (
            ("Synthetic Data YES", ds.get("SyntheticData") == "YES"),
            ("Content Qualification RESEARCH", ds.get("ContentQualification") == "RESEARCH"),
            ("Image Type DERIVED", (image_type if isinstance(image_type, str) else image_type[0]) == "DERIVED"),
        )
        if not kept
    ]
    return no(f"missing: {', '.join(lacking)}") if lacking else yes("marked as synthetic, for research and derived")


def _check_dicom_signature(ds: Dataset, signed: SignedClaims | None) -> Answer:
    return unknown(names.NOT_SIGNED) if signed is None else check_signature(ds, signed.signing_certificate)


def _text_of(ds: Dataset, keyword: str) -> str:
    """A UID of the instance, or nothing where it has none: then it belongs to no series."""
    try:
        value = ds.get(keyword) if isinstance(ds, Dataset) else None
        return str(value or "")
    except Exception:  # noqa: BLE001 (the stated edge: a hostile data set may fail in any way, and its claims say so)
        return ""
