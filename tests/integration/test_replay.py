"""Volumes of a running site, made again from their attestations: to the bit, or with the difference named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from safetensors import safe_open
from safetensors.torch import save_file

import veraicon.replay.bundles
from domain.errors import ReplayImpossible, VerificationFailed
from fhir_adapter.local.intake import prepare_intake
from generators.cards import WEIGHTS_NAME, bundle_folder, read_card, write_card
from generators.weights import file_digest
from provenance.digests import pixel_digest
from tests.peers.veraicon_site import ENDED, VeraiconSite, veraicon_site
from veraicon.asking import parse_asked, request_from
from veraicon.demo import SAMPLE
from veraicon.publishing import SIDECAR_NAME
from veraicon.replay.comparison import Likeness
from veraicon.replay.options import ReplayOptions
from veraicon.replay.replaying import ReplayReport, replay
from veraicon.settings import Settings, load_settings
from veraicon.wiring import open_site

_ASKED = ("hippocampus-anterior-volume=1500", "hippocampus-posterior-volume=1500")
_MORE = '[publication]\nimage = "{image}"\nsummary = "{summary}"\nvisible_mark = "{mark}"\n[generation]\nredraws = 0\n[worker]\nconcurrency = 3\n'


@dataclass(frozen=True)
class Made:
    """A site whose jobs are done: two of one seed, made in a batch and alone after a restart, one of another, one asked."""

    site: VeraiconSite
    batch: tuple[str, str, str]
    alone: str

    @property
    def settings(self) -> Settings:
        return load_settings(self.site.config)

    def replay(self, job: str, **options: Any) -> ReplayReport:
        return replay(job, self.settings, ReplayOptions(**options))

    def folder(self, job: str) -> Path:
        return self.site.folder / "data" / "jobs" / job


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, eventually: Callable[..., Any]) -> Iterator[Made]:
    import socket

    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    with veraicon_site(
        tmp_path_factory.mktemp("replay"), free_port, _MORE.format(image="classic", summary="pdf", mark="overlay")
    ) as site:
        with open_site(load_settings(site.config)) as parts:
            for path in sorted((SAMPLE / "series").glob("*.dcm")):
                parts.archive.land(path.read_bytes(), source="PACS")
            parts.fhir.transact(prepare_intake(json.loads((SAMPLE / "patient.json").read_text())))
        batch = [_submit(site, 1), _submit(site, 2), _submit(site, 5, *_ASKED)]
        _work_off(site, batch, eventually)
        site.write_config(_MORE.format(image="enhanced", summary="sr", mark="none"))
        alone = _submit(site, 1)
        _work_off(site, [alone], eventually)
        yield Made(site, (batch[0], batch[1], batch[2]), alone)


def _submit(site: VeraiconSite, seed: int, *asked: str) -> str:
    settings = load_settings(site.config)
    with open_site(settings) as parts:
        source = parts.archive.unannounced(0)[0].series_uid
        request = request_from(
            parts.archive, source, settings.generation, requested_by="test", seed=seed, asked=parse_asked(asked)
        )
        parts.jobs.submit(request)
    return request.request_id


def _work_off(site: VeraiconSite, jobs: list[str], eventually: Callable[..., Any]) -> None:
    worker = site.start("work")
    with open_site(load_settings(site.config)) as parts:
        states = lambda: [parts.jobs.get(job).state for job in jobs]  # noqa: E731
        eventually(lambda: all(state in ENDED for state in states()), deadline_s=180)
        assert set(states()) == {"attested"}, site.log()[-3000:]
    worker.terminate()
    worker.wait(timeout=40)


@pytest.mark.requirement("PROV-REPLAY-001")
def test_a_job_is_replayed_to_the_bit_in_a_fresh_process(made: Made) -> None:
    answered = made.site.run_in_a_fresh_python("replay", made.batch[2], "--json")
    assert answered.returncode == 0, answered.stdout + answered.stderr
    told = json.loads(answered.stdout)
    assert (told["likeness"], told["differences"], told["not_checkable"]) == ("bit-exact", [], [])
    assert [series["modality"] for series in told["series"]] == ["MR", "SEG", "DOC"]
    for series in told["series"]:
        assert series["same_attributes"] == series["same_pixels"] == series["compared_one_by_one"] == series["instances"]


@pytest.mark.requirement("PROV-REPLAY-001")
def test_order_batch_and_restart_change_no_bit(made: Made) -> None:
    """Replayed last to first, alone; one seed gives one volume in a batch of three and alone after a restart, in each form."""
    for job in (made.alone, *reversed(made.batch)):
        report = made.replay(job)
        assert (report.likeness, report.differences) == (Likeness.BIT_EXACT, ()), report.to_json()
    in_batch = sorted((made.folder(made.batch[0]) / "series").glob("0*.dcm"))
    frames = dcmread(next((made.folder(made.alone) / "series").glob("0*.dcm"))).pixel_array
    assert len(in_batch) == len(frames) > 1
    for path, frame in zip(in_batch, frames, strict=True):
        assert (dcmread(path).pixel_array == frame).all()


@pytest.mark.requirement("PROV-REPLAY-001")
def test_a_published_file_of_another_site_is_replayed_with_its_inputs_given_again(made: Made, tmp_path: Path) -> None:
    """The receiver has the instances, the public keys, the source and the EHR; salted digests it cannot compare."""
    keys = tmp_path / "jwks.json"
    with open_site(made.settings) as parts:
        keys.write_text(json.dumps(parts.keyring.public_jwks()))
    elsewhere = load_settings(storage={"folder": str(tmp_path / "elsewhere")})
    options = ReplayOptions(keys=keys, dicom=SAMPLE / "series", fhir=SAMPLE / "patient.json")
    file = next((made.folder(made.batch[0]) / "series").glob("0*.dcm"))
    report = replay(str(file), elsewhere, options)
    assert report.likeness is Likeness.BIT_EXACT, report.to_json()
    assert report.series[0].known == 1, "the one instance tells its own digests; the root tells of all"
    assert "salted" in report.unknown[0]


@pytest.mark.requirement("PROV-REPLAY-002")
def test_another_thread_count_is_named_and_within_the_tolerance(made: Made) -> None:
    report = made.replay(made.batch[0], threads=1)
    assert [(one.what, one.attested, one.here) for one in report.differences] == [("threads", "2", "1")]
    assert report.verdict
    assert report.likeness in {Likeness.WITHIN_TOLERANCE, Likeness.BIT_EXACT}


@pytest.mark.requirement("PROV-REPLAY-002")
def test_another_seed_and_other_weights_are_named_and_differ(made: Made, tmp_path: Path) -> None:
    report = made.replay(made.batch[0], seed=2)
    assert [(one.what, one.is_input) for one in report.differences] == [("seed", True)]
    assert (report.verdict, report.likeness) == (False, Likeness.DIFFERENT)
    assert report.series[0].deviation is not None
    assert report.series[0].deviation.largest > 0.1
    report = made.replay(made.batch[0], model=str(_other_weights(tmp_path / "bundle")))
    assert not report.verdict
    assert report.likeness is Likeness.DIFFERENT
    assert "weights" in [one.what for one in report.differences if one.is_input]


@pytest.mark.requirement("PROV-REPLAY-002")
def test_what_is_not_at_hand_is_asked_for(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecar = str(made.folder(made.batch[0]) / SIDECAR_NAME)
    keys = tmp_path / "jwks.json"
    with open_site(made.settings) as parts:
        keys.write_text(json.dumps(parts.keyring.public_jwks()))
    elsewhere = load_settings(storage={"folder": str(tmp_path / "elsewhere")})
    with pytest.raises(ReplayImpossible, match="source series"):
        replay(sidecar, elsewhere, ReplayOptions(keys=keys))
    monkeypatch.setattr(veraicon.replay.bundles, "bundled_models", lambda: ())
    lacking = made.settings.generation.model_copy(update={"model": str(_other_weights(tmp_path / "bundle"))})
    with pytest.raises(ReplayImpossible, match="no bundle"):
        replay(sidecar, made.settings.model_copy(update={"generation": lacking}))


@pytest.mark.requirement("PROV-REPLAY-002")
def test_what_does_not_verify_is_not_replayed(made: Made, tmp_path: Path) -> None:
    content = json.loads((made.folder(made.batch[0]) / SIDECAR_NAME).read_text())
    content["jws"] = content["jws"][:-8] + ("A" * 8 if not content["jws"].endswith("A" * 8) else "B" * 8)
    changed = tmp_path / SIDECAR_NAME
    changed.write_text(json.dumps(content))
    with pytest.raises(VerificationFailed, match="does not verify"):
        made.replay(str(changed))


@pytest.mark.requirement("PROV-REPLAY-002")
def test_a_tampered_copy_proves_nothing_about_by_how_much_a_replay_differs(made: Made, tmp_path: Path) -> None:
    """The published copies that verify are compared with; one whose pixels were changed is passed over."""
    copies = tmp_path / "copies"
    shutil.copytree(made.folder(made.batch[0]) / "series", copies)
    ds = dcmread(copies / "00001.dcm")
    ds.PixelData = bytes(len(ds.PixelData))
    ds.save_as(copies / "00001.dcm")
    elsewhere = tmp_path / "sidecar" / SIDECAR_NAME
    elsewhere.parent.mkdir()
    shutil.copy(made.folder(made.batch[0]) / SIDECAR_NAME, elsewhere)
    from veraicon.replay.subject import subject_of
    from veraicon.verifying.targets import trusted_keys

    settings = made.settings
    keys = trusted_keys(None, lambda: settings)
    there = settings.model_copy(update={"storage": settings.storage.model_copy(update={"folder": tmp_path / "empty"})})
    keys_file = tmp_path / "keys.json"
    keys_file.write_text(json.dumps(keys))
    subject = subject_of(str(elsewhere), there, keys, key_file=keys_file, published=copies)
    assert str(ds.SOPInstanceUID) not in subject.published
    assert len(subject.published) == len(list(copies.glob("*.dcm"))) - 1
    assert pixel_digest(ds) != subject.instances[str(ds.SOPInstanceUID)].pixel_digest


@pytest.mark.requirement("PROV-REPLAY-002")
def test_an_ehr_that_changed_is_named_where_the_snapshot_is_gone(made: Made) -> None:
    kept = made.folder(made.batch[1]) / "paired.json"
    aside = kept.with_suffix(".aside")
    kept.rename(aside)
    try:
        assert made.replay(made.batch[1]).differences == (), "the EHR still says the same of that time"
        changed = json.loads((SAMPLE / "patient.json").read_text())
        observation = next(
            entry["resource"] for entry in changed["entry"] if entry["resource"]["resourceType"] == "Observation"
        )
        observation["valueQuantity"]["value"] = float(observation["valueQuantity"]["value"]) + 60
        with open_site(made.settings) as parts:
            parts.fhir.transact(prepare_intake(changed))
        report = made.replay(made.batch[1])
    finally:
        aside.rename(kept)
    inputs = {one.what for one in report.differences if one.is_input}
    assert inputs >= {"EHR snapshot"}, report.to_json()
    assert not report.verdict
    assert "60" not in json.dumps([one.to_json() for one in report.differences if "digest" in one.what])
    assert made.replay(made.batch[1]).likeness is Likeness.BIT_EXACT, "from the snapshot that the job kept"


def _other_weights(folder: Path) -> Path:
    """Write the packaged bundle with its decoder a little changed, and a card that says so."""
    packaged = bundle_folder("hippocampus-t1")
    folder.mkdir(exist_ok=True)
    with safe_open(packaged / WEIGHTS_NAME, framework="pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    name = max((one for one in tensors if one.startswith("image_denoiser.")), key=lambda one: tensors[one].numel())
    tensors[name] = tensors[name] * 1.05
    save_file(tensors, folder / WEIGHTS_NAME, metadata=metadata)
    from dataclasses import replace

    write_card(replace(read_card(packaged), weights_digest=file_digest(folder / WEIGHTS_NAME)), folder)
    return folder
