"""Data sets of what a real site has made of two people: kept, compared, exported, judged by others, and recalled."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner, Result

import veraicon
from dicom_node.reading import read_volume
from domain.errors import OutputRecalled, RequestInvalid
from fhir_adapter.local.intake import prepare_intake
from tests.builders_main_job import small_bundle
from tests.peers.bids_validator import bids_errors
from tests.peers.croissant import croissant_records
from tests.peers.dicom3tools import errors_of_instance
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.asking import request_from
from veraicon.cli import app
from veraicon.pipeline import JobState
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

SAMPLE = Path(veraicon.__file__).parent / "sample"
_BUNDLE = small_bundle("PGBM-002", {"hippocampus-anterior-volume": 1700.0, "hippocampus-posterior-volume": 1550.0})


@dataclass(frozen=True)
class Made:
    """A site with a volume of each of two people, and the series that one of them was made of."""

    site: VeraiconSite
    source: str

    def run(self, *arguments: str) -> Result:
        """Run a command of ours; an error of ours is raised as it is."""
        result = CliRunner().invoke(app, ["--config", str(self.site.config), *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def told(self, *arguments: str) -> Any:
        """Run a command of ours and return what it says to programs."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def keys(self, folder: Path) -> Path:
        """Write the public keys of the site."""
        path = folder / "jwks.json"
        with open_site(load_settings(self.site.config)) as parts:
            path.write_text(json.dumps(parts.keyring.public_jwks()))
        return path


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, data_folder: Callable[[str], Path], eventually: Callable[..., Any]
) -> Iterator[Made]:
    real = data_folder("dicom/mr_hippocrop_PGBM-002")
    with veraicon_site(tmp_path_factory.mktemp("site"), lambda: 11112) as site:
        uids = _submit(site, real)
        worker = site.start("work")
        with open_site(load_settings(site.config)) as parts:
            eventually(lambda: _attested(parts) >= uids, deadline_s=120, every_s=0.5)
        worker.terminate()
        worker.wait(timeout=40)
        yield Made(site, min(uids, key=lambda uid: uid.startswith("2.25")))


def _submit(site: VeraiconSite, real: Path) -> set[str]:
    """Put two patients where a server would have put them, and ask for one volume of each."""
    settings = load_settings(site.config)
    with open_site(settings) as parts:
        for folder, bundle in ((real, _BUNDLE), (SAMPLE / "series", json.loads((SAMPLE / "patient.json").read_text()))):
            for path in sorted(folder.glob("*.dcm")):
                parts.archive.land(path.read_bytes(), source="PACS", origin="pulled")
            parts.fhir.transact(prepare_intake(bundle))
        uids = {one["SeriesInstanceUID"] for one in parts.archive.find("SERIES", {})}
        for uid in uids:
            parts.jobs.submit(request_from(parts.archive, uid, settings.generation, requested_by="test", seed=11))
    return uids


def _attested(parts: Site) -> set[str]:
    return {row.series_uid for row in parts.jobs.recent(states=[JobState.ATTESTED])}


@pytest.mark.requirement("PROV-DATA-001", "PROV-DATA-002")
def test_a_version_is_made_once_verified_and_compared(made: Made) -> None:
    first = made.told("dataset", "create", "people", "--all-attested", "--split", "train=0.5,test=0.5", "--seed", "1")
    assert (first["version"], first["members"], first["subjects"], first["new"]) == ("people:1", 2, 2, True)
    same = made.told("dataset", "create", "people", "--all-attested", "--split", "train=0.5,test=0.5", "--seed", "1")
    assert (same["version"], same["digest"], same["new"]) == ("people:1", first["digest"], False)
    more = made.told(
        "dataset", "create", "people", "--all-attested", "--source-series", made.source, "--split", "train=0.5,test=0.5",
        "--seed", "1",
    )  # fmt: skip
    assert (more["version"], more["members"], more["subjects"]) == ("people:2", 3, 2)
    parts = {one["part"] for one in more["members_listed"] if one["subject"] == _subject_of(more, made.source)}
    assert len(parts) == 1, "a source lies where what was made of it lies"
    assert made.told("dataset", "diff", "people:1", "people:2") == {
        "added": [made.source], "removed": [], "changed": [], "moved": [],
    }  # fmt: skip
    assert [one["version"] for one in made.told("dataset", "list")] == ["people:1", "people:2"]
    claims = {one["claim"]: one for one in made.told("dataset", "verify", "people:2")["claims"]}
    assert {one["truth"] for one in claims.values()} == {"true"}
    assert "3 members" in claims["members"]["why"]
    assert json.loads(Path(more["file"]).read_text())["manifest"]["number"] == 2


def _subject_of(told: dict[str, Any], uid: str) -> str:
    return next(one["subject"] for one in told["members_listed"] if one["series_uid"] == uid)


def test_what_is_no_member_is_refused(made: Made) -> None:
    synthetic = _generated(made)[0]
    for arguments in (
        (),
        ("--source-series", synthetic),
        ("--from-jobs", "no-such-job"),
        ("--series", made.source),
        ("--series", synthetic, "--split", "train=0.7"),
    ):
        with pytest.raises(Exception, match=r"VI-") as refused:
            made.run("dataset", "create", "other", *arguments)
        assert type(refused.value).__module__ == "domain.errors"
    with pytest.raises(RequestInvalid, match="name"):
        made.run("dataset", "create", "Patient Smith", "--all-attested")


def _generated(made: Made) -> list[str]:
    with open_site(load_settings(made.site.config)) as parts:
        return [row.generated_series_uid for row in parts.jobs.recent(states=[JobState.ATTESTED])]


@pytest.mark.requirement("PROV-EXPORT-002")
def test_a_dicom_export_verifies_with_the_key_alone_and_a_change_is_told(made: Made, tmp_path: Path) -> None:
    made.run("dataset", "create", "dicom", "--all-attested")
    folder, keys = tmp_path / "export", made.keys(tmp_path)
    assert made.told("dataset", "export", "dicom", "--to", str(folder))["members"] == 2
    assert errors_of_instance(folder / "dicom" / "DICOMDIR") == []
    verify = ("dataset", "verify", str(folder), "--keys", str(keys), "--json")
    light = subprocess.run([sys.executable, "-c", _LIGHT, *verify], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert light.returncode == 0, light.stdout + light.stderr
    with pytest.raises(RequestInvalid, match="not empty"):
        made.run("dataset", "export", "dicom", "--to", str(folder))
    image = next(path for path in (folder / "dicom").rglob("IM*") if dcmread(path, specific_tags=["Modality"]).Modality == "MR")
    content = bytearray(image.read_bytes())
    content[-3] ^= 1
    image.write_bytes(content)
    told = made.run(*verify)
    assert (told.exit_code, _false(told)) == (1, ["files", "members"])
    image.unlink()
    assert _false(made.run(*verify)) == ["files", "members"]
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["manifest"]["members"][0]["licence"] = "none"
    (folder / "dataset.json").write_text(json.dumps(manifest))
    assert _false(made.run(*verify)) == ["manifest"]


# Everything that a receiver who only verifies has not installed.
_LIGHT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "sqlalchemy", "sqlmodel", "pynetdicom", "fastapi", "httpx", "nibabel", "highdicom"}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
from veraicon.cli import app
app(sys.argv[1:])
"""


def _false(result: Result) -> list[str]:
    return [one["claim"] for one in json.loads(result.stdout)["claims"] if one["truth"] == "false"]


@pytest.mark.requirement("PROV-EXPORT-001")
def test_a_bids_export_satisfies_its_validator_and_holds_the_voxels_of_dicom(made: Made, tmp_path: Path) -> None:
    made.run("dataset", "create", "bids", "--all-attested", "--source-series", made.source, "--split", "train=0.5,test=0.5")
    folder = tmp_path / "export"
    made.run("dataset", "export", "bids", "--to", str(folder), "--format", "bids")
    assert bids_errors(folder) == []
    assert bids_errors(folder / "derivatives" / "labels") == []
    images = sorted(folder.glob("sub-*/ses-*/anat/*_acq-synthetic_T1w.nii.gz"))
    assert len(images) == 2, "the source stays at home unless it is asked for"
    for path in images:
        about = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        assert about["SyntheticData"] is True
        image = nibabel.load(path)
        assert image.header["descrip"].tobytes().startswith(b"SYNTHETIC")
        held = _held(made, about["SeriesInstanceUID"])
        assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), held.array)
        corner = held.affine_lps @ (1, 2, 3, 1)
        assert np.diag([-1, -1, 1, 1]) @ image.affine @ (3, 2, 1, 1) == pytest.approx(corner, abs=1e-4)
        labels = folder / "derivatives/labels" / path.relative_to(folder).with_name(path.name.replace("T1w", "dseg"))
        assert set(np.unique(np.asarray(nibabel.load(labels).dataobj))) == {0, 1, 2}
    for path in folder.rglob("*"):
        assert "PGBM" not in path.name
        assert not path.is_file() or b"PGBM" not in path.read_bytes()
    whole = tmp_path / "whole"
    told = made.told("dataset", "export", "bids", "--to", str(whole), "--format", "bids", "--include-sources")
    assert told["sources"] == 1
    assert len(list(whole.glob("sub-*/ses-*/anat/*_acq-source_T1w.nii.gz"))) == 1
    assert bids_errors(whole) == []
    assert made.run("dataset", "verify", str(whole)).exit_code == 0


def _held(made: Made, uid: str):
    with open_site(load_settings(made.site.config)) as parts:
        return read_volume([parts.archive.read(one) for one in parts.archive.references({"SeriesInstanceUID": [uid]})])


@pytest.mark.requirement("PROV-EXPORT-004")
@pytest.mark.parametrize("form", ["bids", "dicom"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, which mlcroissant uses
def test_croissant_metadata_is_valid_and_its_records_are_the_volumes(made: Made, tmp_path: Path, form: str) -> None:
    made.run("dataset", "create", "croissant", "--all-attested", "--split", "train=0.5,test=0.5")
    folder = tmp_path / "export"
    made.run("dataset", "export", "croissant", "--to", str(folder), "--format", form)
    records = croissant_records(folder / "croissant.json", "volumes")
    assert {one["series_uid"] for one in records} == set(_generated(made))
    assert all((folder / one["path"]).is_file() for one in records)
    datasheet = (folder / "datasheet.md").read_text()
    for title in ("Motivation", "Composition", "Collection", "Preprocessing", "Uses", "Distribution", "Maintenance"):
        assert f"## {title}\n" in datasheet
    assert "| volumes | 2 |" in datasheet


@pytest.mark.requirement("PROV-DATA-003")
def test_a_recalled_member_is_refused_and_told(made: Made, tmp_path: Path) -> None:
    """The last test of the file: what it recalls stays recalled."""
    made.run("dataset", "create", "recalled", "--all-attested")
    listed = made.told("dataset", "show", "recalled")["members_listed"]
    job, uid = listed[0]["job"], listed[0]["series_uid"]
    made.run("recall", "--request", job, "--execute", "--reason", "quality", "--by", "test")
    assert list(made.told("dataset", "show", "recalled")["recalled"]) == [uid]
    told = made.run("dataset", "verify", "recalled", "--json")
    assert told.exit_code == 1
    assert _false(told) == ["not-recalled"]
    for arguments in (("create", "again", "--from-jobs", job), ("export", "recalled", "--to", str(tmp_path / "out"))):
        with pytest.raises(OutputRecalled):
            made.run("dataset", *arguments)
    assert not (tmp_path / "out").exists()
    rest = made.told("dataset", "create", "rest", "--all-attested")
    assert (rest["members"], rest["left_out"]) == (1, 1)
