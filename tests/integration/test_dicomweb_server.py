"""Our DICOMweb service as others call it: dicomweb-client over real HTTP, with real series."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicomweb_client import DICOMwebClient
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless
from requests import HTTPError

from dicom_node.holding.files import to_part10
from dicom_node.web.media_types import can_recode
from dicom_node.web.multipart import write_multipart
from tests.builders_dicom import part10_series, series_datasets, slice_dataset
from tests.peers.web_server import serving
from veraicon.settings import load_settings
from veraicon.wiring import Site, open_site

_DICOM = "application/dicom"


@dataclass(frozen=True)
class Served:
    """A site and a stranger's client of it."""

    site: Site
    url: str
    client: DICOMwebClient


@pytest.fixture
def served(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Served]:
    settings = load_settings(storage={"folder": str(tmp_path / "data"), "min_free_mib": 1}, http={"max_instance_mib": 2})
    with open_site(settings) as site, serving(site, free_port()) as url:
        yield Served(site, url, DICOMwebClient(url))


def _names(ds: Dataset) -> tuple[str, str, str]:
    return str(ds.StudyInstanceUID), str(ds.SeriesInstanceUID), str(ds.SOPInstanceUID)


def _hold(served: Served, paths: list[Path]) -> list[Dataset]:
    for path in paths:
        served.site.archive.land(path.read_bytes(), source="PACS")
    return [dcmread(path) for path in paths]


def _multipart(files: list[bytes]) -> tuple[dict[str, str], bytes]:
    body = b"".join(write_multipart("b-o-u-n-d", [({"Content-Type": _DICOM}, [data]) for data in files]))
    return {"Content-Type": f'multipart/related; type="{_DICOM}"; boundary=b-o-u-n-d'}, body


@pytest.fixture
def syntaxes(served: Served, data_folder: Callable[[str], Path]) -> list[Dataset]:
    return _hold(served, sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm")))


@pytest.mark.requirement("DICOM-WEB-001")
def test_searches_find_at_each_level_page_by_page_and_say_what_is_left(served: Served) -> None:
    for name, count in (("one", 4), ("two", 2)):
        for data in part10_series(count, name=name):
            served.site.archive.land(data, source="PACS")
    studies = served.client.search_for_studies(search_filters={"PatientName": "phan*"})
    assert len(studies) == 2
    first = Dataset.from_json(studies[0])
    assert first.RetrieveURL == f"{served.url}/studies/{first.StudyInstanceUID}"
    assert "SeriesDate" not in first
    assert sum(Dataset.from_json(one).NumberOfStudyRelatedInstances for one in studies) == 6
    study = str(series_datasets(1, name="one")[0].StudyInstanceUID)
    assert len(served.client.search_for_series(study)) == 1
    assert len(served.client.search_for_series()) == 2
    numbers = []
    for offset in (0, 3):
        page = httpx.get(f"{served.url}/studies/{study}/instances", params={"limit": 3, "offset": offset})
        numbers += [one["00200013"]["Value"][0] for one in page.json()]
        assert ("There are 1 additional" in page.headers.get("Warning", "")) == (offset == 0)
    assert numbers == [1, 2, 3, 4]
    found = served.client.search_for_instances(search_filters={"Modality": "MR"}, get_remaining=True, fields=["SeriesDate"])
    assert len(found) == 6
    assert all("00080021" in one for one in found)
    nothing = httpx.get(f"{served.url}/studies", params={"PatientID": "NOBODY"})
    assert (nothing.status_code, nothing.content) == (204, b"")
    fuzzy = httpx.get(f"{served.url}/studies", params={"fuzzymatching": "true", "ManufacturerModelName": "X"})
    assert "fuzzymatching" in fuzzy.headers["Warning"]
    assert "ManufacturerModelName" in fuzzy.headers["Warning"]
    for wrong in ({"NoSuchThing": "1"}, {"limit": "-1"}):
        assert httpx.get(f"{served.url}/studies", params=wrong).status_code == 400
    assert httpx.get(f"{served.url}/studies/1.02/series").status_code == 400
    assert httpx.get(f"{served.url}/studies", headers={"Accept": "application/dicom+xml"}).status_code == 406


@pytest.mark.requirement("DICOM-WEB-002")
def test_an_instance_comes_back_byte_for_byte_in_the_syntax_in_which_it_was_sent(
    served: Served, data_folder: Callable[[str], Path]
) -> None:
    for path in sorted(data_folder("dicom/mr_siemens_7_transfer_syntaxes").glob("*.dcm")):
        ds = _hold(served, [path])[0]
        study, series, instance = _names(ds)
        answer = httpx.get(
            f"{served.url}/studies/{study}/series/{series}/instances/{instance}",
            headers={"Accept": f'multipart/related; type="{_DICOM}"; transfer-syntax=*'},
        )
        assert path.read_bytes() in answer.content
        again = served.client.retrieve_instance(study, series, instance)
        assert again.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
        assert httpx.get(answer.request.url, headers={"Accept": _DICOM}).status_code == (
            200 if can_recode(str(ds.file_meta.TransferSyntaxUID), ExplicitVRLittleEndian) else 406
        )


@pytest.mark.requirement("DICOM-WEB-003")
@pytest.mark.parametrize("target", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_instances_are_transcoded_only_where_asked_and_without_a_loss(
    served: Served, syntaxes: list[Dataset], target: str
) -> None:
    for ds in syntaxes:
        if not can_recode(str(ds.file_meta.TransferSyntaxUID), target):
            with pytest.raises(HTTPError, match="406"):
                served.client.retrieve_instance(*_names(ds), media_types=((_DICOM, target),))
            continue
        given = served.client.retrieve_instance(*_names(ds), media_types=((_DICOM, target),))
        assert given.file_meta.TransferSyntaxUID == target
        assert given.SOPInstanceUID == ds.SOPInstanceUID
        assert np.array_equal(given.pixel_array, ds.pixel_array)


@pytest.mark.requirement("DICOM-WEB-002")
def test_a_series_is_given_as_held_and_whole(served: Served, syntaxes: list[Dataset]) -> None:
    study, series, _ = _names(syntaxes[0])
    given = list(served.client.iter_series(study, series, media_types=((_DICOM, "*"),)))
    held = {str(ds.SOPInstanceUID): ds for ds in syntaxes if str(ds.SeriesInstanceUID) == series}
    assert {str(ds.SOPInstanceUID) for ds in given} == set(held)
    for ds in given:
        assert ds.PixelData == held[str(ds.SOPInstanceUID)].PixelData
    study_given = list(served.client.iter_study(study, media_types=((_DICOM, "*"),)))
    assert len(study_given) == len([ds for ds in syntaxes if str(ds.StudyInstanceUID) == study])


@pytest.mark.requirement("DICOM-WEB-004")
def test_frames_come_as_held_or_decoded(served: Served, syntaxes: list[Dataset]) -> None:
    for ds in syntaxes:
        held = ds.file_meta.TransferSyntaxUID
        (frame,) = served.client.retrieve_instance_frames(*_names(ds), [1])
        if held.is_compressed:
            assert frame[: len(frame) - 1] in ds.PixelData
        else:
            assert frame == ds.pixel_array.astype("<u2").tobytes()
        if held == JPEGLosslessSV1:
            continue
        (decoded,) = served.client.retrieve_instance_frames(
            *_names(ds), [1], media_types=(("application/octet-stream", ExplicitVRLittleEndian),)
        )
        assert np.array_equal(np.frombuffer(decoded, "<u2").reshape(ds.Rows, ds.Columns), ds.pixel_array)


@pytest.mark.requirement("DICOM-WEB-004")
def test_frames_of_an_enhanced_instance_and_of_a_segmentation_are_told_apart(
    served: Served, data_folder: Callable[[str], Path]
) -> None:
    enhanced = next(data_folder("dicom/mr_enhanced_multiframe").rglob("*.dcm"))
    for path in (enhanced, data_folder("dicom/ct_ge_3slice_seg_sr") / "seg.dcm"):
        ds = _hold(served, [path])[0]
        given = served.client.retrieve_instance_frames(*_names(ds), [2, int(ds.NumberOfFrames)])
        assert [len(frame) for frame in given] == [len(ds.PixelData) // int(ds.NumberOfFrames)] * 2
        length = len(given[0])
        assert given == [ds.PixelData[length : 2 * length], ds.PixelData[-length:]]
        with pytest.raises(HTTPError, match="404"):
            served.client.retrieve_instance_frames(*_names(ds), [int(ds.NumberOfFrames) + 1])


@pytest.mark.requirement("DICOM-WEB-005")
def test_metadata_tells_all_but_bulk_data_and_where_that_is(served: Served, data_folder: Callable[[str], Path]) -> None:
    ds = _hold(served, sorted((data_folder("dicom/ct_ge_3slice_seg_sr") / "ct").glob("*.dcm")))[0]
    study, series, instance = _names(ds)
    assert len(served.client.retrieve_series_metadata(study, series)) == 3
    assert len(served.client.retrieve_study_metadata(study)) == 3
    found = served.client.retrieve_instance_metadata(study, series, instance)
    address = found["7FE00010"]["BulkDataURI"]
    assert b"".join(served.client.retrieve_bulkdata(address)) == ds.PixelData
    told = Dataset.from_json({tag: value for tag, value in found.items() if "BulkDataURI" not in value})
    for element in ds:
        if element.VR not in ("OW", "SQ") and element.tag.element != 0 and element.keyword != "SpecificCharacterSet":
            assert told[element.tag].value == element.value, element.keyword
    with pytest.raises(HTTPError, match="404"):
        served.client.retrieve_bulkdata(address.replace("7FE00010", "7FE00011"))


@pytest.mark.requirement("DICOM-WEB-006")
def test_frames_are_rendered_through_the_window_that_is_asked_for(served: Served, data_folder: Callable[[str], Path]) -> None:
    ds = _hold(served, [data_folder("dicom/ct_ge_3slice_seg_sr") / "ct" / "01.dcm"])[0]
    picture = Image.open(
        io.BytesIO(
            served.client.retrieve_instance_rendered(*_names(ds), media_types=("image/png",), params={"window": "40,400"})
        )
    )
    hu = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    wanted = np.rint(255 * np.clip((hu - 39.5) / 399 + 0.5, 0, 1))
    assert np.abs(np.asarray(picture).astype(int) - wanted).max() <= 1
    jpeg = httpx.get(f"{served.url}/studies/{ds.StudyInstanceUID}/thumbnail")
    assert jpeg.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(jpeg.content)).size == (128, 128)
    refused = httpx.get(f"{served.url}/studies/{ds.StudyInstanceUID}/rendered", params={"window": "40,0"})
    assert refused.status_code == 400
    assert refused.json()["title"] == "RequestInvalid"


@pytest.mark.requirement("DICOM-WEB-006")
def test_a_synthetic_instance_says_so_in_its_picture(served: Served) -> None:
    grid = np.full((64, 64), 1000, np.uint16)
    grid[0, 0] = 0
    for name, mark in (("real", None), ("made", "YES")):
        ds = slice_dataset(1, grid, name=name, **({"SyntheticData": mark} if mark else {}))
        served.site.archive.land(to_part10(ds), source="PACS")
        png = served.client.retrieve_instance_rendered(*_names(ds), media_types=("image/png",))
        picture = Image.open(io.BytesIO(png))
        assert (picture.info.get("Comment") == "SYNTHETIC") == bool(mark)
        assert (np.asarray(picture)[1:] == 255).all() != bool(mark)


@pytest.mark.requirement("DICOM-WEB-007")
def test_stored_instances_are_durable_and_named_in_the_answer(served: Served, data_folder: Callable[[str], Path]) -> None:
    datasets = [dcmread(path) for path in sorted((data_folder("dicom/mr_siemens_7_transfer_syntaxes")).glob("*.dcm"))]
    answer = served.client.store_instances(datasets)
    assert len(answer.ReferencedSOPSequence) == len(datasets)
    assert "FailedSOPSequence" not in answer
    for ds in datasets:
        assert served.client.retrieve_instance(*_names(ds)).PixelData == ds.PixelData
    assert len(served.client.store_instances(datasets).ReferencedSOPSequence) == len(datasets), "a repeat is success"


@pytest.mark.requirement("DICOM-WEB-007")
def test_what_is_not_stored_is_named_with_its_reason(served: Served) -> None:
    one, two = series_datasets(1, name="one")[0], series_datasets(1, name="two")[0]
    other = series_datasets(1, name="one")[0]
    other.PatientName = "Other^Bytes"
    files = [to_part10(one), to_part10(two), b"no DICOM", to_part10(other)]
    headers, body = _multipart(files)
    answer = httpx.post(f"{served.url}/studies/{one.StudyInstanceUID}", content=body, headers=headers)
    told = Dataset.from_json(answer.json())
    assert answer.status_code == 202
    assert [item.ReferencedSOPInstanceUID for item in told.ReferencedSOPSequence] == [one.SOPInstanceUID]
    failed = {str(item.ReferencedSOPInstanceUID): item.FailureReason for item in told.FailedSOPSequence}
    assert failed == {str(two.SOPInstanceUID): 0xA900, str(other.SOPInstanceUID): 0x0111}
    assert [item.FailureReason for item in told.OtherFailuresSequence] == [0xC000]
    assert not served.client.search_for_instances(str(two.StudyInstanceUID))
    headers, body = _multipart([b"no DICOM"])
    assert httpx.post(f"{served.url}/studies", content=body, headers=headers).status_code == 409


@pytest.mark.requirement("DICOM-WEB-008")
@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "application/json"}, b"{}", 415),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=b'}, b"--b--", 415),
        ({"Content-Type": "application/dicom"}, part10_series(1)[0], 415),
        ({"Content-Type": 'multipart/related; type="application/dicom"'}, b"--b--", 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, b"--b--", 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, b"--b\r\n\r\nDICM", 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, b"x" * 10**6, 400),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, b"--b\r\n\r\n" + b"x" * 5 * 2**20, 413),
        ({"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}, b"--b\r\n" + b"x" * 10**5, 413),
        (
            {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b', "Accept": "application/dicom+xml"},
            b"--b--",
            406,
        ),
    ],
    ids=[
        "json",
        "metadata",
        "single part",
        "no boundary",
        "no part",
        "truncated",
        "no start",
        "long part",
        "long headers",
        "xml answer",
    ],
)
def test_a_bad_body_is_refused_by_status_and_keeps_nothing(
    served: Served, headers: dict[str, str], body: bytes, status: int
) -> None:
    answer = httpx.post(f"{served.url}/studies", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status
    assert not list((served.site.settings.storage.folder / "archive" / "incoming").iterdir())
    assert not list((served.site.settings.storage.folder / "archive" / "instances").rglob("*.dcm"))


@pytest.mark.requirement("DICOM-WEB-007")
def test_what_came_before_a_cut_stays_stored(served: Served, eventually: Callable[..., object]) -> None:
    ds = series_datasets(2)
    headers, body = _multipart([to_part10(one) for one in ds])
    port = int(served.url.split(":")[2].split("/")[0])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as caller:
        head = f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        caller.sendall(head.encode() + b"\r\n" + body[: len(body) * 3 // 4])
        eventually(lambda: len(served.site.archive.references({})) == 1)
    eventually(lambda: not list((served.site.settings.storage.folder / "archive" / "incoming").iterdir()))


@pytest.mark.requirement("DICOM-WEB-009")
def test_bytes_that_changed_on_disk_are_never_given(served: Served) -> None:
    data = part10_series(2)
    landed = [served.site.archive.land(one, source="PACS") for one in data]
    path = served.site.archive.instance_path(landed[0].reference)
    path.chmod(0o644)
    path.write_bytes(data[0][:-1] + b"!")
    url = f"{served.url}/studies/{landed[0].study_uid}"
    instance = f"{url}/series/{landed[0].series_uid}/instances/{landed[0].reference.sop_instance_uid}"
    assert httpx.get(instance).status_code == 500
    assert httpx.get(instance + "/metadata").status_code == 500
    path.write_bytes(data[0])
    path = served.site.archive.instance_path(landed[1].reference)
    path.chmod(0o644)
    path.write_bytes(b"!")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url)
