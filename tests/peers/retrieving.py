"""A node that is asked to retrieve, and a caller and a receiver made by hand for what DCMTK and Orthanc cannot be told to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE, build_context, build_role, evt

from dicom_node.archive import Archive
from dicom_node.presentation import MOVE_CLASSES, UNCOMPRESSED, retrieve_contexts
from dicom_node.scp import StorageNode
from dicom_node.scu import Peer
from domain.identifiers import derive_uid

SYNTAXES = "dicom/mr_siemens_7_transfer_syntaxes"
STUDY = derive_uid("series", "study")


@contextmanager
def serving(archive: Archive, *destinations: Peer, **options: Any) -> Iterator[StorageNode]:
    node = StorageNode(
        archive, ae_title="VERAICON", host="127.0.0.1", port=0, pdu_timeout_s=2.0,
        move_destinations={peer.ae_title: peer for peer in destinations}, **options,
    )  # fmt: skip
    node.start()
    try:
        yield node
    finally:
        node.stop()


def keys(level: str, **wanted: str) -> list[str]:
    return [part for keyword, value in {"QueryRetrieveLevel": level, **wanted}.items() for part in ("-k", f"{keyword}={value}")]


def land(archive: Archive, folder: Path) -> list[Dataset]:
    """Land each file of a folder byte for byte and return the datasets."""
    files = sorted(folder.glob("*.dcm"))
    for path in files:
        archive.land(path.read_bytes(), source="CT1")
    return [dcmread(path) for path in files]


def arrived(folder: Path) -> dict[str, Dataset]:
    return {str(ds.SOPInstanceUID): ds for ds in (dcmread(path) for path in folder.iterdir())}


def local(name: str, port: int, **more: Any) -> Peer:
    return replace(Peer(name.lower(), name, "127.0.0.1", port, timeout_s=5.0), **more)


def identifier(level: str, **wanted: str) -> Dataset:
    ds = Dataset()
    ds.QueryRetrieveLevel = level
    for keyword, value in wanted.items():
        setattr(ds, keyword, value)
    return ds


def association(
    node: StorageNode,
    model: str,
    store: Callable[[evt.Event], int] = lambda _: 0x0000,
    syntaxes: list[str] | None = None,
) -> Any:
    contexts = [*retrieve_contexts([model]), build_context(MRImageStorage, syntaxes or list(UNCOMPRESSED))]
    assoc = AE("ASKER").associate(
        "127.0.0.1", node.port, contexts=contexts, ae_title="VERAICON",
        ext_neg=[build_role(MRImageStorage, scp_role=True)], evt_handlers=[(evt.EVT_C_STORE, store)],
    )  # fmt: skip
    assert assoc.is_established
    return assoc


def send(assoc: Any, model: str, wanted: Dataset, *, message_id: int, destination: str = "SCP") -> Iterator[Any]:
    if model in MOVE_CLASSES:
        return iter(assoc.send_c_move(wanted, destination, model, msg_id=message_id))
    return iter(assoc.send_c_get(wanted, model, msg_id=message_id))


def ask(
    node: StorageNode, model: str, level: str, *, destination: str = "SCP", message_id: int = 1, **wanted: str
) -> list[tuple[Dataset, Any]]:
    assoc = association(node, model)
    try:
        return list(send(assoc, model, identifier(level, **wanted), message_id=message_id, destination=destination))
    finally:
        assoc.release()


def counted(status: Dataset) -> tuple[int, int | None, int, int, int]:
    """Status, remaining, completed, failed, warning."""
    return (
        status.Status,
        status.get("NumberOfRemainingSuboperations"),
        status.NumberOfCompletedSuboperations,
        status.NumberOfFailedSuboperations,
        status.NumberOfWarningSuboperations,
    )


def start_receiver(store: Callable[[evt.Event], int], contexts: list[Any] | None = None) -> Any:
    ae = AE("SCP")
    for context in contexts or [build_context(MRImageStorage, list(UNCOMPRESSED))]:
        ae.add_supported_context(context.abstract_syntax, context.transfer_syntax)
    return ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])


@contextmanager
def receiver(store: Callable[[evt.Event], int], contexts: list[Any] | None = None) -> Iterator[int]:
    server = start_receiver(store, contexts)
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
