"""A publication is complete when the PACS has committed: Orthanc reports to `serve`, another process waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from dicom_node.commitment.messages import (
    WELL_KNOWN_INSTANCE,
    CommitmentReport,
    CommitmentRequest,
    named_instances,
    read_request,
    report_dataset,
)
from dicom_node.commitment.records import SentCommitments
from dicom_node.scu import Peer
from dicom_node.writing import write_series
from domain.errors import PeerRefused, PublicationError
from tests.builders_dicom import generated_phantom, index_engine, series_datasets, series_identity, source_series
from tests.peers.dcmtk import running_storescp
from tests.peers.orthanc import running_orthanc
from tests.peers.veraicon_site import veraicon_site
from veraicon.committing import Committer
from veraicon.settings import load_settings
from veraicon.wiring import open_site


@pytest.mark.requirement("DICOM-SC-011")
def test_orthanc_commits_to_a_publication_and_reports_to_the_serving_process(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    dicom_port = free_port()
    (tmp_path / "orthanc").mkdir()
    toml = (
        "[worker]\nembedded = false\n"
        f'[[destinations]]\nname = "orthanc"\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {dicom_port}\n'
        'commitment = "required"\n'
    )
    instances = write_series(generated_phantom(), series_identity(), source=source_series())
    with (
        veraicon_site(tmp_path / "site", free_port, toml) as site,
        running_orthanc(tmp_path / "orthanc", dicom_port=dicom_port, http_port=free_port(), node_port=site.node_port),
    ):
        site.serve()
        with open_site(load_settings(site.config)) as parts:
            (destination,) = parts.destinations
            receipt = destination.accept(instances)
            assert (receipt.instances, receipt.committed) == (len(instances), True)
            assert destination.accept(instances).committed is True, "a repeat knows the report"


class Pacs:
    """A PACS that keeps what a test says, and reports as it says. No real one can be made to lose an instance in time."""

    def __init__(self) -> None:
        self.lost: dict[str, int] = {}
        self.silent = False
        self.transactions: list[str] = []
        ae = AE("PACS")
        ae.supported_contexts = [build_context(Verification), build_context(StorageCommitmentPushModel)]
        self._server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_ACTION, self._action)])
        self.peer = Peer("pacs", "PACS", "127.0.0.1", self._server.server_address[1], timeout_s=5.0)

    def stop(self) -> None:
        self._server.shutdown()

    def _action(self, event: evt.Event) -> tuple[int, None]:
        request: CommitmentRequest = read_request(event.action_information)
        self.transactions.append(request.transaction_uid)
        kept = tuple(one for one in request.instances if one.sop_instance_uid not in self.lost)
        gone = tuple((one, self.lost[one.sop_instance_uid]) for one in request.instances if one.sop_instance_uid in self.lost)
        report = CommitmentReport(request.transaction_uid, kept, gone)
        if not self.silent:
            event.assoc.send_n_event_report(
                report_dataset(report), report.event_type, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
            )
        return 0x0000, None


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    made = Pacs()
    yield made
    made.stop()


@pytest.fixture
def instances() -> list[Dataset]:
    return series_datasets(3)


def _committer(folder: Path, peer: Peer, **options: Any) -> Committer:
    return Committer(peer, SentCommitments(index_engine(folder)), **{"required": False, "timeout_s": 1.0, **options})


@pytest.mark.requirement("DICOM-SC-012")
def test_a_failed_report_names_counts_and_reasons_and_the_next_attempt_asks_anew(
    tmp_path: Path, pacs: Pacs, instances: list[Dataset]
) -> None:
    committer = _committer(tmp_path, pacs.peer)
    pacs.lost = {str(instances[0].SOPInstanceUID): 0x0112, str(instances[1].SOPInstanceUID): 0x0110}
    with pytest.raises(PublicationError) as failed:
        committer.commit(instances)
    assert "1 of 3" in failed.value.found
    assert "1 with 0x0110" in failed.value.found
    assert "1 with 0x0112" in failed.value.found
    pacs.lost = {}
    assert committer.commit(instances) is True
    assert committer.commit(instances) is True
    assert len(pacs.transactions) == len(set(pacs.transactions)) == 2


@pytest.mark.requirement("DICOM-SC-012")
def test_a_report_that_does_not_come_is_noted_or_an_error_and_each_request_is_a_transaction_of_its_own(
    tmp_path: Path, pacs: Pacs, instances: list[Dataset]
) -> None:
    pacs.silent = True
    assert _committer(tmp_path, pacs.peer).commit(instances) is False
    with pytest.raises(PublicationError, match="no commitment report"):
        _committer(tmp_path, pacs.peer, required=True).commit(instances)
    pacs.silent = False
    assert _committer(tmp_path, pacs.peer).commit(instances) is True
    assert len(pacs.transactions) == len(set(pacs.transactions)) == 3


@pytest.mark.requirement("DICOM-SC-012")
def test_a_report_that_comes_after_the_wait_saves_the_next_request(
    tmp_path: Path, pacs: Pacs, instances: list[Dataset]
) -> None:
    pacs.silent = True
    committer = _committer(tmp_path, pacs.peer)
    assert committer.commit(instances) is False
    assert committer.commit(instances) is False
    late = CommitmentReport(pacs.transactions[0], named_instances(instances))
    assert committer.sent.reported(late, reporter="PACS")
    assert committer.commit(instances) is True
    assert len(pacs.transactions) == 2
    assert committer.commit(instances[:1]) is False, "nobody was asked about these alone"


@pytest.mark.requirement("DICOM-SC-012")
def test_a_peer_without_commitment_is_noted_or_an_error(
    tmp_path: Path, free_port: Callable[[], int], instances: list[Dataset]
) -> None:
    port = free_port()
    with running_storescp(tmp_path, port):
        peer = Peer("scp", "ANY", "127.0.0.1", port, timeout_s=5.0)
        assert _committer(tmp_path, peer).commit(instances) is None
        with pytest.raises(PeerRefused, match="does not offer storage commitment"):
            _committer(tmp_path, peer, required=True).commit(instances)
