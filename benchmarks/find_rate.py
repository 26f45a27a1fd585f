"""How long a study-level C-FIND by patient id takes over 100,000 instances: over an association, and in the index alone.

Run it from the repository root: ``python benchmarks/find_rate.py [--instances 100000] [--queries 200]``. It makes an index of
made-up rows in a temporary folder, asks for one patient after another, and prints rows of a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine, insert
from sqlmodel import create_engine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dicom_node.archive import Archive
from dicom_node.calling.dimse import identifier
from dicom_node.presentation import FIND_CLASSES, find_contexts, verification_contexts
from dicom_node.query import Root, answer, parse_find, select
from dicom_node.scu import Peer, association
from dicom_node.tables import InstanceRow, SeriesRow, StudyRow, metadata

_ROOT = Path(__file__).resolve().parents[1]

STUDIES_PER_PATIENT, SERIES_PER_STUDY, INSTANCES_PER_STUDY = 4, 2, 50

_ASKED = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "PatientName",
    "ModalitiesInStudy",
    "StudyDescription",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)


def fill(engine: Engine, instances: int) -> int:
    """Make the rows; return how many patients they are of."""
    studies = instances // INSTANCES_PER_STUDY
    in_series = INSTANCES_PER_STUDY // SERIES_PER_STUDY
    series = studies * SERIES_PER_STUDY
    with engine.begin() as connection:
        connection.execute(insert(StudyRow), [_study(n) for n in range(studies)])
        connection.execute(insert(SeriesRow), [_series(n) for n in range(series)])
        for n in range(series):
            connection.execute(insert(InstanceRow), [_instance(n, k) for k in range(in_series)])
    return studies // STUDIES_PER_PATIENT


def _study(n: int) -> dict[str, object]:
    day = f"2024{n % 12 + 1:02d}{n % 28 + 1:02d}"
    patient = f"P-{n // STUDIES_PER_PATIENT}"
    return {
        "study_uid": f"2.25.1{n:09d}", "patient_id": patient, "patient_id_issuer": "SITE", "patient_name": f"Phantom^{patient}",
        "birth_date": "19500101", "sex": "O", "study_date": day, "study_time": "101112", "accession": f"ACC-{n}",
        "study_id": str(n), "study_description": "Phantom", "referring_physician": "",
    }  # fmt: skip


def _series(n: int) -> dict[str, object]:
    return {
        "series_uid": f"2.25.2{n:09d}", "study_uid": f"2.25.1{n // SERIES_PER_STUDY:09d}", "modality": ("MR", "SEG")[n % 2],
        "series_number": str(n % SERIES_PER_STUDY + 1), "series_description": "Phantom", "series_date": "", "series_time": "",
        "body_part": "BRAIN", "protocol_name": "", "source": "CT1", "origin": "received", "expected_instances": None,
        "last_landed_s": 0.0, "pending": False, "announced_digest": "",
    }  # fmt: skip


def _instance(series: int, k: int) -> dict[str, object]:
    return {
        "sop_instance_uid": f"2.25.3{series:09d}{k:03d}", "series_uid": f"2.25.2{series:09d}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.4", "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "digest": f"sha256:{series:032x}{k:032x}", "size_bytes": 524288, "instance_number": str(k + 1), "rows": 512,
        "columns": 512, "number_of_frames": "", "source": "CT1", "landed_s": 0.0,
    }  # fmt: skip


def times_ms(ask: Callable[[int], int], patients: int, queries: int) -> list[float]:
    """Return how long each of some queries took, each for another patient; each must find all studies of its patient."""
    taken = []
    for n in range(queries + 5):
        began = time.perf_counter()
        found = ask(n * 7919 % patients)
        taken.append(1000 * (time.perf_counter() - began))
        if found != STUDIES_PER_PATIENT:
            raise SystemExit(f"{found} studies found, {STUDIES_PER_PATIENT} expected")
    return taken[5:]  # the first ones warm caches


def in_index(archive: Archive) -> Callable[[int], int]:
    """Return a query of the index with matching and answers, without the network."""

    def ask(patient: int) -> int:
        query = parse_find(identifier("STUDY", *_ASKED, PatientID=f"P-{patient}"), Root.STUDY)
        found = select(query, archive.find(query.level, query.narrowing, counted=query.counted))
        return len([answer(query, entity, retrieve_ae_title="VERAICON") for entity in found])

    return ask


_NODE = """
import sys
from pathlib import Path
from sqlmodel import create_engine
from dicom_node.archive import Archive
from dicom_node.scp import StorageNode
folder = Path(sys.argv[1])
archive = Archive(create_engine(f"sqlite:///{folder / 'index.db'}"), folder / "archive", min_free_bytes=2**20)
node = StorageNode(archive, ae_title="VERAICON", host="127.0.0.1", port=0)
node.start()
print(node.port, flush=True)
sys.stdin.read()
"""


def row(what: str, taken: list[float]) -> str:
    """Return a row of the table."""
    ordered = sorted(taken)
    return f"| {what} | {statistics.median(taken):.1f} | {ordered[int(0.95 * len(ordered))]:.1f} | {ordered[-1]:.1f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = create_engine(f"sqlite:///{folder / 'index.db'}")
        metadata.create_all(engine)
        patients = fill(engine, options.instances)
        archive = Archive(engine, folder / "archive", min_free_bytes=2**20)
        print(f"| a patient's {STUDIES_PER_PATIENT} studies of {options.instances} instances | median ms | p95 | max |")
        print("|---|---|---|---|")
        print(row("index, matching and answers alone", times_ms(in_index(archive), patients, options.queries)))
        found, echoed = _over_association(folder, patients, options.queries)
        print(row("over one association, node in a process of its own", found))
        print(row("for comparison: C-ECHO over the same association", echoed))


def _over_association(folder: Path, patients: int, queries: int) -> tuple[list[float], list[float]]:
    """Return the times of C-FIND and of C-ECHO, which is what the network, its threads and a single answer take."""
    command = [sys.executable, "-c", _NODE, str(folder)]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": "."},
    ) as node:
        assert node.stdout is not None
        port = next(int(line) for line in node.stdout if line.strip().isdigit())
        try:
            peer = Peer("node", "VERAICON", "127.0.0.1", port)
            with association(peer, [*find_contexts(FIND_CLASSES[1]), *verification_contexts()]) as assoc:

                def ask(patient: int) -> int:
                    wanted = identifier("STUDY", *_ASKED, PatientID=f"P-{patient}")
                    return sum(ds is not None for _, ds in assoc.send_c_find(wanted, FIND_CLASSES[1]))

                def echo(_: int) -> int:
                    return STUDIES_PER_PATIENT if assoc.send_c_echo().Status == 0 else 0

                return times_ms(ask, patients, queries), times_ms(echo, patients, queries)
        finally:
            node.kill()


if __name__ == "__main__":
    main()
