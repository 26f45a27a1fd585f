"""Selecting outputs, keeping their copies, the states of a recall, and its signed notice; no servers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ConsentMissing, OutputRecalled, PeerUnreachable, RequestInvalid, VerificationFailed
from domain.generation import Receipt
from domain.identifiers import PatientIdentifier
from domain.series import ImagingSeries
from provenance.recall_notice import RecalledOutput, RecallReason, read_notice, sign_notice
from provenance.signing import SigningKey
from provenance.verification import Beside, verify_provenance
from tests.builders_dicom import generated_phantom
from tests.builders_provenance import make_instance, make_series, make_statement
from tests.builders_recall import MADE, publish_output, request_for, request_id_of, source_of
from veraicon.artifacts import GENERATED_VOLUME, json_codec
from veraicon.commands.console import show_json
from veraicon.database import connect, migrate
from veraicon.previewing import draw_job
from veraicon.recall import planning
from veraicon.recall.outputs import Outputs
from veraicon.recall.records import CopyState, Recalls
from veraicon.recall.reporting import in_markdown, report
from veraicon.recall.selection import Selection, selected_outputs, tokens_of
from veraicon.recall.telling import Answer
from veraicon.sections import PairingSettings
from veraicon.settings import load_settings
from veraicon.verifying.site import ask_site
from veraicon.wiring import Site, open_site

SALT = b"s" * 32
WEIGHTS = "sha256:" + "e" * 64


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    made = connect(load_settings(storage={"folder": str(tmp_path / "data")}))
    migrate(made)
    yield made
    made.dispose()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1})) as parts:
        yield parts


def _made(outputs: Outputs, request: str, *, patient: PatientIdentifier, days: int = 0, **changes: object) -> None:
    statement = make_statement(request, make_series([make_instance(request, 1), make_instance(request, 2)]))
    statement = replace(statement, generated_at=MADE + timedelta(days=days), **changes)  # type: ignore[arg-type]  # by keyword
    for _ in range(2):
        outputs.made(statement, patient)


def _requests(engine: Any, **wanted: Any) -> set[str]:
    return {row.request_id for row in selected_outputs(engine, Selection(**wanted))}


@pytest.mark.requirement("PROV-RECALL-002")
def test_conditions_are_joined_by_and_and_the_patient_is_found_by_token_alone(engine: Any) -> None:
    outputs = Outputs(engine, SALT)
    other = replace(make_statement("x", make_series([make_instance("x", 1)])).model, weights_digest=WEIGHTS, name="other")
    _made(outputs, "a", patient=PatientIdentifier("MRN-1", "http://h/mrn"))
    _made(outputs, "b", patient=PatientIdentifier("MRN-1", "http://h/mrn"), model=other, days=2)
    _made(outputs, "c", patient=PatientIdentifier("MRN-2"), software_version="9.9", source_study_uid="1.2.3", days=4)
    tokens = tokens_of(SALT, "MRN-1", None, PairingSettings(issuers={"H": "http://h/mrn"}))
    assert _requests(engine, patient_tokens=tokens) == {"a", "b"}
    assert _requests(engine, patient_tokens=tokens, weights=WEIGHTS) == {"b"}
    assert _requests(engine, patient_tokens=tokens_of(SALT, "MRN-1", "http://other", PairingSettings())) == set()
    assert _requests(engine, patient_tokens=tokens_of(b"t" * 32, "MRN-1", "http://h/mrn", PairingSettings())) == set()
    assert _requests(engine, weights="other") == {"b"}
    assert _requests(engine, software="9.9", source_study="1.2.3") == {"c"}
    assert _requests(engine, since=MADE + timedelta(days=1), until=MADE + timedelta(days=2)) == {"b"}
    assert _requests(engine, request_id="a") == {"a"}
    with pytest.raises(RequestInvalid, match="nothing in particular"):
        Selection()
    written = b"".join(path.read_bytes() for path in Path(engine.url.database).parent.glob("veraicon.sqlite*"))
    assert b"1.2.3" in written
    assert b"MRN-" not in written, "no patient stands in the database"


@pytest.mark.requirement("PROV-RECALL-002")
def test_one_row_tells_of_a_copy_however_often_it_is_fetched_and_foreign_series_are_not_noted(engine: Any) -> None:
    outputs = Outputs(engine, SALT)
    _made(outputs, "a", patient=PatientIdentifier("MRN-1"))
    (series,) = outputs.series("a")
    outputs.leaving("a", "pacs", "dicom")
    assert [(copy.recipient, copy.accepted) for copy in outputs.copies("a")] == [("pacs", False)], "sent, not yet confirmed"
    outputs.arrived("a", Receipt("pacs", "dicom", 2, datetime.now(UTC)))
    for _ in range(3):
        outputs.hand_out({series, "1.2.3.4"}, "WS1", "c-get")
    outputs.hand_out({"1.2.3.4"}, "WS2", "c-get")
    outputs.hand_out(set(), "WS3", "c-get")
    assert [(copy.recipient, copy.accepted) for copy in outputs.copies("a")] == [("WS1", False), ("pacs", True)]


@pytest.mark.requirement("PROV-RECALL-004")
def test_once_a_recall_is_begun_nothing_of_it_leaves_though_the_process_died_there(site: Site) -> None:
    request = publish_output(site, 1, attested=False)
    begun = planning.begin(
        site, planning.plan(site, Selection(request_id=request)), reason=RecallReason.QUALITY, note="", by="me"
    )
    with pytest.raises(OutputRecalled, match=begun[:8]):
        publish_output(site, 1)
    assert list(site.fhir.search("Provenance", {})) == []
    assert planning.plan(site, Selection(request_id=request)).before == (request,)


@pytest.mark.requirement("PROV-RECALL-004")
def test_a_job_on_its_way_that_would_make_the_same_is_listed_and_cancelled(site: Site) -> None:
    site.jobs.submit(request_for(1))
    site.jobs.submit(replace(request_for(2), model="another"))
    card_name, patient = Selection(weights="hippocampus-t1"), Selection(patient_tokens=("sha256:" + "0" * 64,))
    assert [row.request_id for row in planning.plan(site, card_name).jobs] == [request_id_of(1)]
    assert len(planning.plan(site, patient).jobs) == 2, "a source that is not held may be anybody's"
    recall_id = planning.begin(site, planning.plan(site, card_name), reason=RecallReason.SAFETY, note="", by="me")
    recaller = planning.recaller_of(site)
    recall = recaller.recalls.find(recall_id)
    assert recaller.carry_through(recall)
    assert [site.jobs.get(request_id_of(number)).state for number in (1, 2)] == ["cancelled", "requested"]
    assert report(recaller, recall)["counts"]["jobs_cancelled"] == 1


@pytest.mark.requirement("PROV-RECALL-003")
def test_a_fhir_server_that_is_away_keeps_an_output_open_and_the_others_are_gone_through(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        publish_output(site, number)
    planned = planning.plan(site, Selection(weights="hippocampus-t1"))
    recaller = planning.recaller_of(site)
    recall = recaller.recalls.find(planning.begin(site, planned, reason=RecallReason.OTHER, note="a | b", by="me"))

    def away(_bundle: object) -> list[str]:
        raise PeerUnreachable("no answer", allowed="an answer", action="wait")

    with monkeypatch.context() as patched:
        patched.setattr(site.fhir, "transact", away)
        assert not recaller.carry_through(recall)
    told = report(recaller, recall)
    assert [one["problem"] for one in told["outputs"]] == ["VI-1101 no answer"] * 2
    assert told["counts"]["copies"] == {"hidden": 2}
    assert "## Problems" in in_markdown(told)
    show_json(told)
    assert recaller.carry_through(recall)
    assert recaller.recalls.find(recall.recall_id[:6]).finished_at is not None
    assert {resource.body["status"] for resource in site.fhir.search("ImagingStudy", {})} == {"entered-in-error"}
    versions = [resource.body["meta"]["versionId"] for resource in site.fhir.search("Provenance", {})]
    assert versions == ["1"] * 4, "two that were published, two that supersede them"


@pytest.mark.requirement("PROV-RECALL-003")
def test_only_what_is_no_longer_shown_counts_as_hidden() -> None:
    shown = Answer(note_found=True, committed=None, shown=3, total=4)
    hidden = Answer(note_found=False, committed=True, shown=0, total=4)
    assert (shown.state, hidden.state) == (CopyState.STILL_SHOWN, CopyState.HIDDEN)
    assert "3 of 4 instances are still shown" in shown.words
    assert "not found by a query, committed to" in hidden.words
    assert {state for state in CopyState if not state.ended} == {CopyState.PENDING, CopyState.UNREACHABLE}


@pytest.mark.requirement("PROV-RECALL-001")
def test_a_notice_says_what_was_signed_and_nothing_else() -> None:
    key, stranger = SigningKey.generate(), SigningKey.generate()
    output = RecalledOutput("request-1", "1.2.3", ("1.2.3.1", "1.2.3.2"), WEIGHTS)
    told = {"recall_id": "r", "recalled_at": MADE, "by": "me", "reason": RecallReason.CONSENT, "note": "n"}
    jws = sign_notice(key, **told, selection={"weights": "w"}, recalled=[output])  # type: ignore[arg-type]  # by keyword
    assert jws == sign_notice(key, **told, selection={"weights": "w"}, recalled=[output])  # type: ignore[arg-type]
    notice = read_notice(jws, key.public_jwks())
    assert notice.of_series("1.2.3.2") == notice.of_request("request-1") == output
    assert notice.of_series("9.9") is None
    assert "consent" in str(notice)
    with pytest.raises(VerificationFailed):
        read_notice(jws, stranger.public_jwks())
    with pytest.raises(VerificationFailed, match="kind"):
        read_notice(key.sign({"version": "veraicon-recall/1"}, kind="veraicon-attestation+json"), key.public_jwks())
    with pytest.raises(VerificationFailed, match="lacks a member"):
        read_notice(key.sign({"version": "veraicon-recall/1"}, kind="veraicon-recall+json"), key.public_jwks())


@pytest.mark.requirement("PROV-RECALL-004")
def test_consent_is_withdrawn_by_somebody_in_particular(site: Site) -> None:
    publish_output(site, 1)
    by_weights = planning.plan(site, Selection(weights="hippocampus-t1"))
    with pytest.raises(RequestInvalid, match="nobody in particular"):
        planning.begin(site, by_weights, reason=RecallReason.CONSENT, note="", by="me")
    by_study = planning.plan(site, Selection(source_study=source_of(7).study_uid))
    assert by_study.outputs == ()
    planning.begin(site, by_study, reason=RecallReason.CONSENT, note="", by="me")
    with pytest.raises(Exception, match="withdrawn"):
        site.outputs.require_consent(source_of(7))
    with pytest.raises(RequestInvalid, match="nothing to recall"):
        planning.begin(site, by_study, reason=RecallReason.QUALITY, note="", by="me")
    assert len(Recalls(site.engine).all()) == 1


@pytest.mark.requirement("PROV-RECALL-003")
def test_only_the_server_that_published_an_output_can_say_that_it_was_not_recalled(site: Site) -> None:
    request, keys = publish_output(site, 1), site.keyring.public_jwks()

    def answer(beside: Beside) -> str:
        assert beside.provenance is not None
        return verify_provenance(beside.provenance, keys, beside=beside)["not-recalled"].truth.value

    asked = ask_site(site.settings)(request, Beside())
    assert not ask_site(site.settings)("another", Beside()).site_asked, "its Provenance was never there"
    assert (answer(asked), answer(replace(asked, site_asked=False))) == ("true", "not checkable")
    planned = planning.plan(site, Selection(request_id=request))
    recaller = planning.recaller_of(site)
    recall_id = planning.begin(site, planned, reason=RecallReason.QUALITY, note="", by="me")
    assert recaller.carry_through(recaller.recalls.find(recall_id))
    assert answer(ask_site(site.settings)(request, Beside())) == "false"


@pytest.mark.requirement("PROV-RECALL-004")
def test_nobody_sees_the_slices_of_a_patient_whose_consent_was_withdrawn(site: Site, tmp_path: Path) -> None:
    withdrawn = Selection(source_study=source_of(7).study_uid)
    planning.begin(site, planning.plan(site, withdrawn), reason=RecallReason.CONSENT, note="", by="me")
    for number in (1, 7):
        site.jobs.submit(request_for(number))
        kept = site.jobs.artifacts(request_id_of(number))
        kept.once("received", json_codec(ImagingSeries), partial(source_of, number))
        kept.once("generated", GENERATED_VOLUME, generated_phantom)
    one = planning.plan(site, Selection(request_id=request_id_of(1)))
    planning.begin(site, one, reason=RecallReason.QUALITY, note="", by="me")
    for number, refusal in ((1, OutputRecalled), (7, ConsentMissing)):
        with pytest.raises(refusal):
            draw_job(site, request_id_of(number), tmp_path / "seen.png")
    assert not (tmp_path / "seen.png").exists()
