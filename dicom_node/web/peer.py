"""A PACS that speaks DICOMweb, as we call it: probe, search, retrieve a series, store. What goes wrong is said in words.

QIDO-RS and STOW-RS go by dicomweb-client. A series is read by our own multipart reader over the same session: the bytes stay as
they come (dicomweb-client decodes each instance at once) and need not fit into memory, and a peer that sends without end
meets a limit.

References
----------
DICOM PS3.18 10.4 (Retrieve), 10.5 (Store), 10.6 (Search).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import unquote

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.holding.files import to_part10
from dicom_node.holding.headers import PARSE_ERRORS, text_of
from dicom_node.statuses import in_words
from dicom_node.web.media_types import DICOM, DICOM_JSON, parse_media_type
from dicom_node.web.multipart import Event, MultipartReader, boundary_of
from domain.errors import (
    InputError,
    PeerAnswerInvalid,
    PeerError,
    PeerRefused,
    PeerUnreachable,
    PublicationError,
    RequestInvalid,
)
from domain.identifiers import require_uid

_LEVELS = {"STUDY": "search_for_studies", "SERIES": "search_for_series", "IMAGE": "search_for_instances"}
_UNIQUE_KEYS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}

# A search that finds more is too wide to be read, or has no end.
_MAX_MATCHES = 200_000

# Instances are sent in requests of about this size, so that a long series is never in memory as a whole.
_BATCH_BYTES = 32 * 2**20

_MAX_INSTANCE_BYTES = 2**32
_MAX_INSTANCES = 100_000
_PIECE_BYTES = 2**18

# What may pass by itself: too slow, too busy, restarting.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_CONFLICT = 409

# Asterisk, question mark, comma, colon, slash and at sign. Orthanc's plugin (1.7) decodes no value of a search.
_PLAIN_IN_QUERIES = re.compile("%(?:2A|3F|2C|3A|2F|40)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WebPeer:
    """A remote DICOMweb service.

    Attributes
    ----------
    name : str
        As in the settings and in messages.
    url : str
        Root of the service, such as ``https://pacs.example/dicom-web``.
    token : str
        Bearer token; empty for none.
    timeout_s : float
        For the connection, and for each wait for bytes.
    qido_prefix, wado_prefix, stow_prefix : str
        Where a service lies below `url`, for peers that keep them apart.
    """

    name: str
    url: str
    token: str = field(default="", repr=False)
    timeout_s: float = 30.0
    qido_prefix: str = ""
    wado_prefix: str = ""
    stow_prefix: str = ""


def probe(peer: WebPeer) -> None:
    """Verify that a peer answers a search, as C-ECHO does for DIMSE.

    Raises
    ------
    PeerUnreachable
        If there is no connection, no answer in time, or the peer is not able to serve now.
    PeerRefused
        If it answers no, or asks for credentials that we do not have.
    PeerAnswerInvalid
        If it answers something else than DICOM JSON.
    """
    search(peer, "STUDY", {}, limit=1)


def search(
    peer: WebPeer,
    level: str,
    matching: Mapping[str, str],
    *,
    study_uid: str = "",
    series_uid: str = "",
    fields: Sequence[str] = (),
    limit: int | None = None,
    offset: int = 0,
) -> list[Dataset]:
    """Return the matches of a QIDO-RS search.

    Parameters
    ----------
    level : {"STUDY", "SERIES", "IMAGE"}
    matching : mapping of str to str
        Keywords and values, with wildcards and ranges as in C-FIND.
    study_uid, series_uid : str
        Below which to search; empty: everywhere.
    fields : sequence of str
        Keywords to return beside those that the level returns anyway.
    limit, offset : int
        Page; None leaves its length to the peer.

    Raises
    ------
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        As for `probe`.
    """
    above = {"study_instance_uid": study_uid, "series_instance_uid": series_uid}
    with _session(peer, "QIDO-RS") as (client, _):
        found = getattr(client, _LEVELS[level])(
            **{name: uid for name, uid in above.items() if uid},
            limit=limit,
            offset=offset or None,
            fields=list(fields) or None,
            search_filters=dict(matching) or None,
        )
        return [Dataset.from_json(item) for item in found]


def search_all(
    peer: WebPeer,
    level: str,
    matching: Mapping[str, str],
    *,
    study_uid: str = "",
    series_uid: str = "",
    fields: Sequence[str] = (),
) -> list[Dataset]:
    """Return all matches of a search, page by page until a page brings nothing new; see `search`.

    Raises
    ------
    PeerUnreachable, PeerRefused
        As for `probe`.
    PeerAnswerInvalid
        As for `probe`; also if a match has no unique key, or the peer gives one page again and again, so that nobody knows
        whether there are more.
    RequestInvalid
        If there are too many matches.
    """
    found: dict[str, Dataset] = {}
    last: list[str] = []
    offset = 0
    while True:
        page = search(peer, level, matching, study_uid=study_uid, series_uid=series_uid, fields=fields, offset=offset)
        uids = [text_of(ds, _UNIQUE_KEYS[level]) for ds in page]
        if not all(uids):
            raise answer_invalid(peer, "QIDO-RS", f"a match without {_UNIQUE_KEYS[level]}")
        if uids and uids == last:
            raise answer_invalid(peer, "QIDO-RS", "the same page for another offset, which each origin server has to obey")
        if not set(uids) - found.keys():
            return list(found.values())
        found |= dict(zip(uids, page, strict=True))
        last, offset = uids, offset + len(page)
        if len(found) > _MAX_MATCHES:
            raise RequestInvalid(
                found=f"a search with more than {_MAX_MATCHES} matches at {peer.name}",
                allowed=f"at most {_MAX_MATCHES}",
                action="narrow it: by date, modality, patient or study",
            )


def retrieve_series(peer: WebPeer, study_uid: str, series_uid: str) -> Generator[Event, None, None]:
    """Yield the instances of a series as the parts of the answer, as the peer holds them, piece by piece while they arrive.

    Raises
    ------
    PeerUnreachable, PeerRefused
        As for `probe`; also if the connection breaks before the last instance.
    PeerAnswerInvalid
        If the answer is no multipart body, or breaks its grammar.
    """
    uids = (require_uid(study_uid, attribute="StudyInstanceUID"), require_uid(series_uid, attribute="SeriesInstanceUID"))
    root = "/".join(part.rstrip("/") for part in (peer.url, peer.wado_prefix) if part)
    with _session(peer, "WADO-RS") as (_, session):
        response = session.get(
            f"{root}/studies/{uids[0]}/series/{uids[1]}",
            headers={"Accept": f'multipart/related; type="{DICOM}"; transfer-syntax=*'},
            timeout=peer.timeout_s,
            stream=True,
        )
        with response:
            response.raise_for_status()
            yield from _parts(response)


def store(peer: WebPeer, datasets: Sequence[Dataset]) -> int:
    """Store instances in their order; return how many the peer took, which is all of them.

    UIDs are not changed, so a repeat after a failure is harmless: the peer knows what it has.

    Raises
    ------
    PeerUnreachable, PeerRefused, PeerAnswerInvalid
        As for `probe`; the last also if the answer does not say what became of an instance.
    PublicationError
        If an instance was not stored; names how many, and why.
    """
    stored = 0
    reasons: Counter[int] = Counter()
    with _session(peer, "STOW-RS") as (client, _):
        for batch in _batches(datasets):
            answer = _store_batch(client, batch)
            refused = _items(answer, "FailedSOPSequence", "OtherFailuresSequence")
            reasons.update(int(item.get("FailureReason") or 0) for item in refused)
            named = {str(item.get("ReferencedSOPInstanceUID", "")) for item in _items(answer, "ReferencedSOPSequence")}
            missing = sum(str(ds.SOPInstanceUID) not in named for ds in batch)
            stored += len(batch) - missing
            if missing > len(refused):
                raise answer_invalid(
                    peer, "STOW-RS", f"an answer without a word on {missing - len(refused)} of the instances sent"
                )
    if reasons:
        words = "; ".join(f"{count} with {in_words(reason)}" for reason, count in sorted(reasons.items()))
        raise PublicationError(
            found=f"{stored} of {len(datasets)} instances stored by {peer.name}: {words}",
            allowed=f"all {len(datasets)} in ReferencedSOPSequence",
            action="nothing has to be undone: the same instances are sent again by the next attempt",
        )
    return stored


def _store_batch(client: DICOMwebClient, batch: Sequence[Dataset]) -> Dataset:
    # dicomweb-client writes what it gets as it is: a dataset from memory would lack preamble and meta information.
    files = [dcmread(BytesIO(to_part10(ds))) for ds in batch]
    try:
        answer: Dataset = client.store_instances(files)
        return answer
    except requests.HTTPError as error:
        # PS3.18 Table 10.5.3-1: none was stored, and the body says why.
        if error.response is None or error.response.status_code not in (_CONFLICT, 503):
            raise
        try:
            return Dataset.from_json(error.response.json())
        except (*PARSE_ERRORS, requests.JSONDecodeError):
            raise error from None


def _items(answer: Dataset, *sequences: str) -> list[Dataset]:
    return [item for sequence in sequences for item in answer.get(sequence) or []]


def _batches(datasets: Sequence[Dataset]) -> Iterator[list[Dataset]]:
    batch: list[Dataset] = []
    size = 0
    for ds in datasets:
        length = len(ds.get("PixelData") or b"")
        if batch and size + length > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(ds)
        size += length
    if batch:
        yield batch


def _parts(response: Any) -> Iterator[Event]:
    content_type = parse_media_type(response.headers.get("Content-Type", ""))
    if content_type is None or content_type.name != "multipart/related":
        raise RequestInvalid(found="no multipart/related", allowed="multipart/related", action="ask the peer's maker")
    reader = MultipartReader(boundary_of(content_type), max_part_bytes=_MAX_INSTANCE_BYTES, max_parts=_MAX_INSTANCES)
    for piece in response.iter_content(_PIECE_BYTES):
        yield from reader.feed(piece)
    reader.finish()


class _PlainQueries(requests.Session):  # type: ignore[misc]  # requests brings no types
    """Leaves plain in a query what may stand there plainly (RFC 3986 3.4), wildcards above all: not every peer decodes them."""

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        prepared: requests.PreparedRequest = super().prepare_request(request)
        path, mark, query = (prepared.url or "").partition("?")
        prepared.url = path + mark + _PLAIN_IN_QUERIES.sub(lambda encoded: unquote(encoded.group()), query)
        return prepared


@contextmanager
def _session(peer: WebPeer, service: str) -> Iterator[tuple[DICOMwebClient, requests.Session]]:
    """Open a session and translate whatever goes wrong in it, once."""
    session = _PlainQueries()
    session.headers["Accept"] = DICOM_JSON
    if peer.token:
        session.headers["Authorization"] = f"Bearer {peer.token}"
    try:
        client = DICOMwebClient(
            peer.url.rstrip("/"),
            session=session,
            qido_url_prefix=peer.qido_prefix or None,
            wado_url_prefix=peer.wado_prefix or None,
            stow_url_prefix=peer.stow_prefix or None,
            callback=_plain_content_type,
            timeout=peer.timeout_s,
        )
        client.set_http_retry_params(retry=False)  # a streamed body cannot be sent twice; the engine repeats the whole step
        yield client, session
    except PeerError:
        raise
    except requests.HTTPError as error:
        raise _refused(peer, service, error) from error
    except requests.JSONDecodeError as error:
        raise answer_invalid(peer, service, "a body that is no JSON") from error
    except requests.RequestException as error:
        raise PeerUnreachable(
            found=f"no connection to {peer.name}, or one that broke, in {service} ({type(error).__name__})",
            allowed=f"an answer within {peer.timeout_s:g} s",
            action="check address, certificate and firewall, and that the peer runs; it is tried again",
        ) from error
    except (*PARSE_ERRORS, InputError) as error:
        raise answer_invalid(peer, service, f"something that {service} does not allow ({type(error).__name__})") from error
    finally:
        session.close()


def _plain_content_type(response: Any, *_: Any, **__: Any) -> Any:
    """Cut parameters from the type of JSON: dicomweb-client does not read an answer with a charset."""
    name = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if name.endswith("json"):
        response.headers["Content-Type"] = name
    return response


def _refused(peer: WebPeer, service: str, error: requests.HTTPError) -> PeerError:
    status = error.response.status_code if error.response is not None else 0
    if status in _TRANSIENT:
        return PeerUnreachable(
            found=f"{peer.name} answered {service} with HTTP {status}",
            allowed="success",
            action="see the peer's log; it is tried again",
        )
    return PeerRefused(
        found=f"{peer.name} answered {service} with HTTP {status}",
        allowed="success",
        action="correct url or token of the peer" if status in (401, 403, 404) else "see the peer's log",
    )


def answer_invalid(peer: WebPeer, service: str, found: str) -> PeerAnswerInvalid:
    """Return the error of a peer that answers a service with something else than it allows."""
    return PeerAnswerInvalid(
        found=f"{peer.name} answered {service} with {found}",
        allowed="an answer by PS3.18",
        action="check that the url is that of a DICOMweb service, else ask the peer's maker",
    )
