"""All marks at once, as a site turns them on: made from files, verified, found again, replayed, and shown over HTTP."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from pydicom import dcmread

from dicom_node.marking.pictures import GENERATED_BY_AI
from tests.builders_marks import site_certificates
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from tests.peers.web_server import serving
from veraicon.settings import load_settings
from veraicon.wiring import open_site

c2pa = pytest.importorskip("c2pa", reason="c2pa-python not here (extra c2pa)")

SAMPLE = Path(__file__).resolve().parents[2] / "veraicon" / "sample"


@dataclass(frozen=True)
class Marked:
    """A site with every mark, and what it made from the sample."""

    site: VeraiconSite
    out: Path

    def series(self) -> Path:
        """The images alone."""
        folder = self.out / "images"
        if not folder.exists():
            folder.mkdir()
            for path in sorted((self.out / "series").glob("*.dcm")):
                if dcmread(path, stop_before_pixels=True).Modality == "MR":
                    shutil.copy(path, folder)
        return folder


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Marked]:
    files, folder = site_certificates(), tmp_path_factory.mktemp("site")
    settings = (
        '[publication]\nvisible_mark = "burned-in"\nwatermark = true\nsummary = "pdf"\n[provenance]\n'
        f'dicom_signature_certificate = "{files.dicom_certificate}"\ndicom_signature_key = "{files.dicom_key}"\n'
        f'c2pa_certificate = "{files.c2pa_certificate}"\nc2pa_key = "{files.c2pa_key}"\n'
    )
    ports = iter((11990, 11991))  # nothing is served: the ports only stand in the settings
    with veraicon_site(folder, lambda: next(ports), settings) as site:
        source = ("--dicom", str(SAMPLE / "series"), "--fhir", str(SAMPLE / "patient.json"))
        done = site.run("generate", *source, "--out", str(folder / "out"), "--seed", "5")
        assert done.returncode == 0, done.stderr
        yield Marked(site, folder / "out")


def _manifest(picture: bytes) -> tuple[str, dict[str, object]]:
    with c2pa.Context.from_dict({}) as context, c2pa.Reader("image/png", BytesIO(picture), context=context) as reader:
        store = json.loads(reader.json())
    content = {one["label"]: one["data"] for one in store["manifests"][store["active_manifest"]]["assertions"]}
    return str(store["validation_state"]), content["org.veraicon.provenance"]


@pytest.mark.requirement("PROV-DSIG-001", "PROV-MARK-002", "PROV-MARK-004")
def test_what_carries_every_mark_verifies_and_its_statement_tells_them(marked: Marked) -> None:
    done = marked.site.run("verify", str(marked.out), "--offline", "--json")
    assert done.returncode == 0, done.stdout
    assert '"dicom-signature"' in done.stdout
    assert "the Digital Signature holds" in done.stdout
    found = marked.site.run("watermark", "detect", str(marked.series()), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["found"] is True
    plain = marked.site.run("watermark", "detect", str(SAMPLE / "series"), "--json")
    assert plain.returncode == 1
    assert json.loads(plain.stdout)["found"] is False


@pytest.mark.requirement("PROV-MARK-006")
def test_a_replay_writes_the_same_marks_whatever_the_site_wants_now(marked: Marked) -> None:
    marked.site.write_config("")
    sidecar = str(marked.out / "attestation.veraicon.json")
    source = ("--dicom", str(SAMPLE / "series"), "--fhir", str(SAMPLE / "patient.json"))
    done = marked.site.run("replay", sidecar, *source, "--published", str(marked.out / "series"), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["likeness"] == "bit-exact"


@pytest.mark.requirement("PROV-MARK-003", "PROV-MARK-005")
def test_a_preview_and_a_rendered_frame_carry_a_manifest_of_their_request(
    marked: Marked, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    sidecar = (marked.out / "provenance.json").read_text(encoding="utf-8")
    state, origin = _manifest((marked.out / "preview.png").read_bytes())
    assert state == "Valid"
    assert str(origin["provenance"]).removeprefix("Provenance/") == json.loads(sidecar)["id"]
    files, keys = site_certificates(), marked.site.folder / "data" / "keys" / "signing.jwk"
    settings = load_settings(
        storage={"folder": str(tmp_path / "data"), "min_free_mib": 1},
        provenance={"key_file": str(keys), "c2pa_certificate": str(files.c2pa_certificate), "c2pa_key": str(files.c2pa_key)},
    )
    path = sorted(marked.series().glob("*.dcm"))[9]
    ds, forged = dcmread(path), dcmread(path)
    forged.SOPInstanceUID, forged.file_meta.MediaStorageSOPInstanceUID = "2.25.77", "2.25.77"
    forged.save_as(tmp_path / "forged.dcm")
    with open_site(settings) as site, serving(site, free_port()) as url:
        for held in (path, tmp_path / "forged.dcm"):
            site.archive.land(held.read_bytes(), source="PACS")
        series = f"{url}/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
        accept = {"Accept": "image/png"}
        ours, other = (
            httpx.get(f"{series}/instances/{uid}/rendered", headers=accept) for uid in (ds.SOPInstanceUID, "2.25.77")
        )
    assert ours.headers["Link"] == other.headers["Link"] == f'<{GENERATED_BY_AI}>; rel="type"'
    state, rendered = _manifest(ours.content)
    assert (state, rendered) == ("Valid", origin)
    assert Image.open(BytesIO(other.content)).info["Comment"] == "SYNTHETIC"
    with c2pa.Context.from_dict({}) as context:
        assert c2pa.Reader.try_create("image/png", BytesIO(other.content), None, context) is None, "not ours: not signed by us"
