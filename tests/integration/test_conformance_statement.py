"""What the conformance statement claims of negotiation and of statuses, asked of a served site over real sockets."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian
from pynetdicom import AE, build_context
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    ModalityWorklistInformationFind,
    StudyRootQueryRetrieveInformationModelFind,
    UnifiedProcedureStepPush,
    Verification,
)
from sqlalchemy.exc import OperationalError

from dicom_node.archive import Archive
from dicom_node.conformance.contexts import accepted, storage_classes
from dicom_node.holding.files import to_part10
from dicom_node.presentation import RECEIVED_SYNTAXES
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer, find
from domain.errors import PeerRefused
from tests.builders_dicom import new_archive, series_datasets
from tests.peers.dcmtk import run_dcmtk
from tests.peers.veraicon_site import VeraiconSite, veraicon_site
from veraicon.conformance import web_routes

NOT_SUPPORTED = (ModalityWorklistInformationFind, UnifiedProcedureStepPush)
PRIVATE_STORAGE = "1.2.826.0.1.3680043.9.7133.9.1"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VeraiconSite]:
    def free_port() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    with veraicon_site(tmp_path_factory.mktemp("site"), free_port, "[worker]\nembedded = false\n") as running:
        running.serve()
        yield running


def results(site: VeraiconSite, contexts: Sequence[PresentationContext]) -> dict[tuple[str, str], int]:
    """Propose contexts of one transfer syntax each, as many associations as they need; return the result of each."""
    answered: dict[tuple[str, str], int] = {}
    for start in range(0, len(contexts), 128):
        part = list(contexts[start : start + 128])
        assoc: Any = AE("TEST").associate("127.0.0.1", site.node_port, contexts=part, ae_title="VERAICON")
        taken = {context.context_id: context for context in (*assoc.accepted_contexts, *assoc.rejected_contexts)}
        for number, proposed in enumerate(part):
            answered[proposed.abstract_syntax, proposed.transfer_syntax[0]] = taken[2 * number + 1].result
        if assoc.is_established:
            assoc.release()
    return answered


@pytest.mark.requirement("DICOM-STORE-001", "DICOM-ASSOC-003", "DICOM-CS-002")
def test_a_served_site_accepts_what_the_statement_lists_and_refuses_the_rest(site: VeraiconSite) -> None:
    listed = [build_context(one.abstract_syntax, syntax) for one in accepted() for syntax in one.transfer_syntaxes]
    stored = [build_context(uid, syntax) for uid in (*storage_classes(), PRIVATE_STORAGE) for syntax in RECEIVED_SYNTAXES[:1]]
    stored += [build_context(PRIVATE_STORAGE, syntax) for syntax in RECEIVED_SYNTAXES[1:]]
    assert set(results(site, [*listed, *stored]).values()) == {0}
    others = results(site, [build_context(uid) for uid in NOT_SUPPORTED] + [build_context(Verification, RECEIVED_SYNTAXES[2])])
    assert list(others.values()) == [3, 3, 4]


@pytest.mark.requirement("DICOM-ECHO-001", "DICOM-CS-002")
def test_the_command_prints_what_the_site_answers_to_dcmtk(site: VeraiconSite) -> None:
    printed = site.run("conformance", "dicom", "--json")
    assert printed.returncode == 0, printed.stderr
    parameters = {row["Parameter"]: row["Value"] for row in json.loads(printed.stdout)["sections"][5]["tables"][0]["rows"]}
    asked = run_dcmtk("echoscu", "-v", "-aec", parameters["AE title"], "127.0.0.1", parameters["Port without TLS"])
    assert "Received Echo Response (Success)" in asked.stdout + asked.stderr


@pytest.mark.requirement("DICOM-CS-002")
def test_every_listed_resource_is_answered_by_a_handler_of_the_served_site(site: VeraiconSite) -> None:
    paths = {(route.method, re.sub(r"\{[a-z_]+\}", "1", route.path)) for route in web_routes()}
    assert {path for path in paths if not handled(site, *path)} == set()
    assert not handled(site, "GET", "/studies/1/unknown")
    assert not handled(site, "DELETE", "/studies/1")


def handled(site: VeraiconSite, method: str, path: str) -> bool:
    """Say whether a handler of ours answered: with what it holds (nothing), or with an error of ours, which has a code.

    What no handler takes, the web framework refuses, with a problem of no type (``about:blank``, RFC 9457, 4.2.1).
    """
    answered = httpx.request(method, f"{site.url}/dicom-web{path}", timeout=10)
    return answered.status_code == 204 or str(answered.json()["type"]).startswith("urn:veraicon:error:")


@pytest.mark.requirement("DICOM-QR-008")
def test_an_index_that_cannot_be_read_is_answered_by_the_status_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_port: Callable[[], int]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OperationalError("select", {}, Exception("disk I/O error"))

    monkeypatch.setattr(Archive, "search", fail)
    node = StorageNode(new_archive(tmp_path), ae_title="VERAICON", host="127.0.0.1", port=free_port())
    node.start()
    try:
        wanted = Dataset()
        wanted.QueryRetrieveLevel, wanted.PatientID = "STUDY", "P"
        with pytest.raises(PeerRefused, match="0xA700"):
            find(
                Peer("node", "VERAICON", "127.0.0.1", node.port),
                wanted,
                sop_class_uid=StudyRootQueryRetrieveInformationModelFind,
            )
    finally:
        node.stop()


@pytest.mark.requirement("DICOM-STORE-002")
@pytest.mark.parametrize("syntax", RECEIVED_SYNTAXES, ids=lambda uid: uid.name)
def test_an_instance_in_each_listed_transfer_syntax_is_kept_as_its_octets_came(
    site: VeraiconSite, syntax: UID, tmp_path: Path
) -> None:
    """Whether anybody here could decode the pixels is no question of storage: those that are encapsulated are none."""
    ds = series_datasets(1, name=f"in {syntax.name}")[0]
    if syntax.is_encapsulated:
        ds.PixelData = encapsulate([b"no real frame in any syntax"])
        ds["PixelData"].VR = "OB"
    ds.file_meta.TransferSyntaxUID = syntax
    sent = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assoc: Any = AE("TEST").associate(
        "127.0.0.1", site.node_port, contexts=[build_context(ds.SOPClassUID, syntax)], ae_title="VERAICON"
    )
    try:
        assert assoc.send_c_store(ds).Status == 0x0000
    finally:
        assoc.release()
    held = [
        path for path in (site.folder / "data" / "archive" / "instances").rglob("*.dcm") if path.read_bytes().endswith(sent)
    ]
    assert len(held) == 1
    assert dcmread(held[0]).file_meta.TransferSyntaxUID == syntax


@pytest.mark.requirement("DICOM-STORE-002")
@pytest.mark.parametrize(
    ("conversion", "proposal", "syntax"),
    [("+td", "-xd", DeflatedExplicitVRLittleEndian), ("+tb", "-xb", ExplicitVRBigEndian)],
)
def test_dcmtk_stores_what_is_deflated_and_what_is_big_endian(
    site: VeraiconSite, tmp_path: Path, conversion: str, proposal: str, syntax: UID
) -> None:
    ds = series_datasets(1, name=f"by storescu {proposal}")[0]
    plain, file = tmp_path / "plain.dcm", tmp_path / "sent.dcm"
    plain.write_bytes(to_part10(ds))
    assert run_dcmtk("dcmconv", conversion, plain, file).returncode == 0
    done = run_dcmtk("storescu", "-v", proposal, "-aec", "VERAICON", "127.0.0.1", str(site.node_port), file)
    assert done.returncode == 0, done.stderr
    held = [dcmread(path) for path in (site.folder / "data" / "archive" / "instances").rglob("*.dcm")]
    (found,) = [one for one in held if one.SOPInstanceUID == ds.SOPInstanceUID]
    assert found.file_meta.TransferSyntaxUID == syntax
    assert (found.pixel_array == ds.pixel_array).all()
