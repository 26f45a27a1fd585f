"""The packaged model of stroke lesions, from a series in MNI space and a record with codes and without, to a verified mask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from dicom_node.holding.files import to_part10
from fhir_adapter.json_text import parse_json
from tests.builders_dicom import slice_dataset
from tests.builders_fhir import SNOMED, concept, condition, observation, patient, transaction
from tests.peers.veraicon_site import veraicon_site

_SHAPE = (68, 95, 79)
_BEFORE = "2024-01-05T08:00:00Z"


def _write_series(folder: Path) -> Path:
    folder.mkdir()
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in _SHAPE), indexing="ij")
    head = (sum(axis**2 for axis in axes) < 1) * np.random.default_rng(0).integers(300, 500, _SHAPE)
    for number, pixels in enumerate(head.astype(np.uint16)):
        at = {"position_mm": (-78, -112, -70 + 2 * number), "PixelSpacing": [2, 2], "PatientID": "MRN-1"}
        (folder / f"{number:03d}.dcm").write_bytes(to_part10(slice_dataset(number + 1, pixels, name="mni", **at)))
    return folder


def _write_record(path: Path) -> Path:
    score = parse_json('{"value": 14, "unit": "{score}", "system": "http://unitsofmeasure.org", "code": "{score}"}')
    times: dict[str, Any] = {"effectiveDateTime": _BEFORE, "issued": _BEFORE}
    resources = (
        patient(birthDate="1950-01-02"),
        observation("nihss", code=concept("72089-6", "Total score [NIH Stroke Scale]"), valueQuantity=score, **times),
        condition("before", code=concept("275526006", "History of cerebrovascular accident", SNOMED)),
        condition("other", code=concept("38341003", "Hypertensive disorder", SNOMED)),
    )
    path.write_text(json.dumps(transaction(*resources), default=float))
    return path


@pytest.mark.parametrize(("asked", "voxels"), [(("stroke-lesion-volume=20 cm3",), 2500), ((), None)])
def test_a_lesion_is_made_from_a_record_and_has_the_volume_that_was_asked(
    tmp_path: Path, asked: tuple[str, ...], voxels: int | None
) -> None:
    ports = iter((11992, 11993))  # nothing is served: the ports only stand in the settings
    with veraicon_site(tmp_path / "site", lambda: next(ports), '[generation]\nmodel = "stroke-lesion"\n') as site:
        source = ("--dicom", str(_write_series(tmp_path / "in")), "--fhir", str(_write_record(tmp_path / "record.json")))
        options = [part for one in asked for part in ("--ask", one)]
        done = site.run("generate", *source, "--out", str(tmp_path / "out"), "--seed", "5", *options, "--json")
        assert done.returncode == 0, done.stderr
        assert {"age", "sex", "nihss", "prior-stroke"} <= set(json.loads(done.stdout)["used"])
        judged = site.run("verify", str(tmp_path / "out"), "--offline")
        assert judged.returncode == 0, judged.stdout
    made = [dcmread(path) for path in sorted((tmp_path / "out" / "series").glob("*.dcm"))]
    slices = [ds for ds in made if ds.Modality == "MR"]
    (segmentation,) = (ds for ds in made if ds.Modality == "SEG")
    lesion = sum(int((ds.pixel_array > 0).sum()) for ds in slices)
    assert len(slices) == _SHAPE[0]
    assert lesion == voxels if voxels else lesion > 0
    assert int(segmentation.pixel_array.sum()) == lesion
    assert (tmp_path / "out" / "preview.png").stat().st_size > 0
