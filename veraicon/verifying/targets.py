"""`veraicon verify`: finds what belongs to a file, folder, Provenance or sidecar, and lets `provenance.verification` judge it.

What is looked for beside the object: sidecar, Provenance, Bundle and recall notices in the same folder or the one above, then
what the FHIR server or store holds that the settings name. Keys: those given, else the site's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom import dcmread

from domain.errors import RequestInvalid, UnreadableInstance
from domain.identifiers import derive_fhir_id
from provenance.attest import SIDECAR_NAME
from provenance.checks import names
from provenance.checks.companions import check_attestation
from provenance.checks.instance import InstanceFinding, Statements
from provenance.lineage import Lineage, of_instance, of_sidecar
from provenance.report import Claim, Truth, VerificationReport, sum_up
from provenance.verification import Beside, judge_beside, judge_instance, judge_series, verify_provenance, verify_sidecar
from veraicon.files import read_json
from veraicon.verifying.files import (
    PROVENANCE_NAME,
    Found,
    examine_files,
    look_beside,
    look_in,
    read_small_json,
    request_of,
    resources_of,
    sidecar_in,
)

if TYPE_CHECKING:
    from veraicon.settings import Settings

Json = Mapping[str, Any]
# Asks the site about a request: what it holds beside what was found.
AskSite = Callable[[str, Beside], Beside]

__all__ = ["PROVENANCE_NAME", "SIDECAR_NAME", "trusted_keys", "verify"]


def verify(
    target: Path,
    *,
    settings: Callable[[], Settings],
    provenance: Path | None = None,
    keys: Path | None = None,
    offline: bool = False,
    processes: int | None = None,
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> VerificationReport:
    """Verify a DICOM file, a folder with series, a Provenance or a sidecar.

    Parameters
    ----------
    target : Path
    settings : callable
        Gives the site's settings; called only where keys are not given, or the site may be asked.
    provenance : Path or None
        Provenance resource to check against.
    keys : Path or None
        JWK Set of the public keys to trust.
    offline : bool
        Ask no FHIR server.
    processes : int or None
        How many processes examine a folder; None: as many as are worth it.
    tell : callable
        Called with the number of files that are done, and of all.

    Returns
    -------
    VerificationReport
        Of a folder with several series or requests, or with broken files: one that sums up, with a part for each.

    Raises
    ------
    RequestInvalid
        If there is nothing to verify in a folder, or no key to trust. A broken object is no error: its claims are false.
    """
    target = target.resolve()  # what belongs to it may lie in the folder above, however it was named
    trusted = trusted_keys(keys, settings)
    found = look_in(target) if target.is_dir() else look_beside(target)
    if provenance is not None:
        found.provenances = [read_json(provenance)]
    ask: AskSite = (lambda _request, beside: beside) if offline else _asker(settings)
    if target.is_dir():
        findings = examine_files(found.dicom, trusted, processes=processes, tell=lambda done: tell(done, len(found.dicom)))
        return _folder_report(findings, found, trusted, ask)
    if found.dicom:
        findings = examine_files(found.dicom, trusted)
        return _file_report(target, findings, found, trusted, ask)
    if found.broken and found.broken[0][0] == target:
        return _broken(target, found.broken[0][1])
    return _json_report(target, found, trusted, ask)


def trusted_keys(keys: Path | None, settings: Callable[[], Settings]) -> Json:
    """Return the keys that the caller trusts: never those that lie beside the object."""
    if keys is not None:
        return read_json(keys)
    from veraicon.site_keys import key_store, site_keyring

    site = settings()
    store = key_store(site)
    if store.file is not None and not store.file.exists():
        raise RequestInvalid(
            found="no key to trust",
            allowed="--keys JWKS.json, or settings of the site that signed",
            action="get the site's keys from its /.well-known/jwks.json, or name its settings with --config",
        )
    return site_keyring(site).public_jwks()


def lineage_of(target: Path, keys: Json) -> Lineage:
    """Return the lineage in a sidecar or DICOM file, if a trusted key signed it.

    Raises
    ------
    VerificationFailed
        If its signature does not hold.
    UnreadableInstance, RequestInvalid
        If it is neither.
    """
    found = look_beside(target)
    if target not in found.dicom:
        return of_sidecar(read_small_json(target), keys)
    try:
        ds = dcmread(target, stop_before_pixels=True)
    except Exception as error:  # the reader raises whatever its input makes it meet
        raise UnreadableInstance(
            found=f"{target.name}, which cannot be read as DICOM", allowed="a whole Part 10 file", action="ask for it again"
        ) from error
    return of_instance(ds, keys)


def lineage_json(lineage: Lineage) -> str:
    """Return a lineage as JSON text, for people and programs."""
    from pydantic import TypeAdapter  # slow to load, and only needed here

    return TypeAdapter(Lineage).dump_json(lineage, indent=1).decode()


def _asker(settings: Callable[[], Settings]) -> AskSite:
    try:
        from veraicon.verifying.site import ask_site
    except ModuleNotFoundError:  # the verifier alone is installed: it knows no site
        return lambda _request, beside: beside
    return ask_site(settings())


def _file_report(
    target: Path, findings: Sequence[InstanceFinding], found: Found, keys: Json, ask: AskSite
) -> VerificationReport:
    if not findings:
        return _broken(target, "a DICOMDIR, which is no instance: name its folder")
    statements = Statements(keys)
    request = _request_of(findings[0], statements)
    beside = ask(request, _beside(found, request, only=True)) if request else _beside(found, "", only=True)
    report = replace(judge_instance(findings[0], keys, beside, statements=statements), about=findings[0].sop_instance_uid)
    # A second Provenance of the same id contradicts the one that was judged.
    others = [one for one in found.provenances if beside.provenance and one["id"] == beside.provenance["id"]]
    contradicting = [
        replace(verify_provenance(one, keys, beside=replace(beside, provenance=one)), about=str(one["id"]))
        for one in others
        if one is not beside.provenance
    ]
    return _with_parts([report, *contradicting, *_unfit(found, _attested_resources([beside], found, keys))])


def _folder_report(findings: Sequence[InstanceFinding], found: Found, keys: Json, ask: AskSite) -> VerificationReport:
    """One part for each series, each file that is broken, and each sidecar and Provenance that belongs to none of them."""
    statements = Statements(keys)
    groups: dict[tuple[str, str], list[InstanceFinding]] = {}
    for finding in findings:
        groups.setdefault((_request_of(finding, statements), finding.series_uid), []).append(finding)
    requests = {request for request, _ in groups}
    asked: dict[str, Beside] = {}
    shared: dict[str, list[Claim]] = {}  # by statement: a request whose instances carry two has been tampered with
    parts: list[VerificationReport] = []
    for (request, series_uid), members in groups.items():
        if request not in asked:
            beside = _beside(found, request, only=len(requests) == 1)
            asked[request] = ask(request, beside) if request else beside
        jws = members[0].jws
        if jws not in shared:
            shared[jws] = judge_beside(members, keys, asked[request], statements=statements)
        report = judge_series(members, keys, asked[request], statements=statements, about=shared[jws])
        parts.append(replace(report, about=series_uid))
    parts += _left_over(found, asked, keys)
    named = _attested_resources(asked.values(), found, keys)
    parts += _unfit(found, named)
    if not parts:
        raise RequestInvalid(
            found="a folder with nothing to verify",
            allowed="DICOM files, attestation sidecars, FHIR resources",
            action="name the folder of a series",
        )
    return _with_parts([*parts, *_passed_over(found, named)])


def _with_parts(parts: Sequence[VerificationReport]) -> VerificationReport:
    return parts[0] if len(parts) == 1 else sum_up(parts)


def _unfit(found: Found, named: set[str]) -> list[VerificationReport]:
    """One part for each file that is broken, and for each Bundle with published resources and others beside them."""
    parts = [_broken(path, why) for path, why in found.broken]
    for bundle in found.bundles:
        names_of = [f"{one['resourceType']}/{one['id']}" for one in bundle if one["resourceType"] != "Provenance"]
        strangers = sorted({name for name in names_of if name not in named})
        ours = len(names_of) < len(bundle) or len(strangers) < len(names_of)
        if named and ours and strangers:
            why = f"{len(strangers)} resources that no attestation names, first {strangers[0]}"
            parts.append(_one_claim("Bundle", Claim(names.RESOURCES, Truth.FALSE, why)))
    return parts


def _attested_resources(asked: Iterable[Beside], found: Found, keys: Json) -> set[str]:
    """References that the attestations which hold name; and of the documents that hold one of these attestations."""
    if not found.resources:
        return set()
    sidecars = [*found.sidecars, *(one.attestation for one in asked if one.attestation)]
    known = {one.jws: one for one in (check_attestation(content, keys)[0] for content in sidecars) if one}
    named = {reference for one in known.values() for reference in one.resources}
    for resource in found.resources:
        held = sidecar_in(resource)
        attested = known.get(str(held.get("jws"))) or check_attestation(held, keys)[0] if held else None
        if attested is None:
            continue
        named |= set(attested.resources)
        if resource["id"] == derive_fhir_id(attested.statement.request_id, "DocumentReference", "attestation"):
            named.add(f"DocumentReference/{resource['id']}")
    return named


def _passed_over(found: Found, named: set[str]) -> list[VerificationReport]:
    """What is nothing of ours makes nothing false, and is told: neither can be said of it."""
    others = {f"{one['resourceType']}/{one['id']}" for one in found.resources} - named if named else set[str]()
    told = [*(path.name for path in found.passed_over), *sorted(others)]
    if not told:
        return []
    why = f"{len(found.passed_over)} files and {len(others)} FHIR resources are nothing that was published, first {told[0]}"
    return [VerificationReport("file", (Claim(names.READABLE, Truth.NOT_CHECKABLE, why),), frozenset(), about="passed over")]


def _left_over(found: Found, asked: Mapping[str, Beside], keys: Json) -> list[VerificationReport]:
    """Reports on each sidecar and Provenance that no report on a series looked at: nothing in a folder is passed over.

    A Provenance of which there are two is among them, and in the folder of one request also one that is of another.
    """
    beside = Beside(resources=found.resources, notices=found.notices, superseding=found.superseding)
    reports = [
        replace(verify_sidecar(one, keys, beside=beside), about=request_of(one))
        for one in found.sidecars
        if all(one is not used.attestation for used in asked.values())
    ]
    attested = {derive_fhir_id(request_of(one), "Provenance"): one for one in found.sidecars}
    only = found.sidecars[0] if len(found.sidecars) == 1 else None
    for one in found.provenances:
        if all(one is not used.provenance for used in asked.values()):
            given = replace(beside, attestation=attested.get(one["id"], only))
            reports.append(replace(verify_provenance(one, keys, beside=given), about=str(one["id"])))
    return reports


def _json_report(target: Path, found: Found, keys: Json, ask: AskSite) -> VerificationReport:
    try:
        content = read_small_json(target)
    except RequestInvalid as error:
        return _broken(target, error.found)
    if "jws" in content:
        beside = _asked_beside(found, content, ask)
        return _with_parts(
            [verify_sidecar(content, keys, beside=beside), *_unfit(found, _attested_resources([beside], found, keys))]
        )
    # Its own ones, each of them: one that lies beside it says nothing of it.
    own = [one for one in resources_of(content) if one["resourceType"] == "Provenance"]
    if not own:
        return _broken(target, f"{target.name}, which is no DICOM file, Provenance, Bundle with one, or sidecar")
    by_provenance = {derive_fhir_id(request_of(one), "Provenance"): one for one in reversed(found.sidecars)}
    first = next(iter(found.sidecars), None)
    besides = [_asked_beside(found, by_provenance.get(one["id"], first), ask) for one in own]
    reports = [verify_provenance(one, keys, beside=beside) for one, beside in zip(own, besides, strict=True)]
    if len(reports) > 1:
        reports = [replace(report, about=str(one["id"])) for one, report in zip(own, reports, strict=True)]
    return _with_parts([*reports, *_unfit(found, _attested_resources(besides, found, keys))])


def _asked_beside(found: Found, sidecar: Json | None, ask: AskSite) -> Beside:
    """What lies beside, and what the site holds, of the request of a sidecar."""
    request = request_of(sidecar) if sidecar else ""
    beside = replace(_beside(found, request, only=True), attestation=sidecar)
    return ask(request, beside) if request else beside


def _beside(found: Found, request: str, *, only: bool) -> Beside:
    """Return what was found that belongs to a request; where it is the only one, also what says that it belongs elsewhere."""
    provenance_id = derive_fhir_id(request, "Provenance")
    sidecar = next((one for one in found.sidecars if request and request_of(one) == request), None)
    provenance = next((one for one in found.provenances if request and one["id"] == provenance_id), None)
    if only:
        sidecar = sidecar or next(iter(found.sidecars), None)
        provenance = provenance or next(iter(found.provenances), None)
    return Beside(
        provenance=provenance,
        attestation=sidecar,
        resources=found.resources,
        notices=found.notices,
        superseding=found.superseding,
        prov=found.prov_of(request) or (found.prov[0] if only and found.prov else None),
    )


def _request_of(finding: InstanceFinding, statements: Statements) -> str:
    return statements.read(finding.jws).request_id if finding.jws else ""


def _broken(path: Path, why: str) -> VerificationReport:
    return _one_claim("file", Claim(names.READABLE, Truth.FALSE, why), about=path.name)


def _one_claim(subject: str, claim: Claim, about: str = "") -> VerificationReport:
    return VerificationReport(subject, (claim,), frozenset({claim.name}), about=about)
