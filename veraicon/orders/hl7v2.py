"""Tells an integration engine by HL7 v2 what became of the orders that it passed on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicom_node.association.tls import ClientTls
from domain.errors import PeerAnswerInvalid, PeerError, PeerRefused, VeraiconError
from domain.ordering import JobNews, News, OrderOrigin, OrderState
from fhir_adapter.hl7v2.acknowledging import Identity, answer_of
from fhir_adapter.hl7v2.message import read_message
from fhir_adapter.hl7v2.mllp import MllpPeer
from fhir_adapter.hl7v2.results import MDM, Receiver, control_id_of, result_message
from veraicon.orders.book import OrderBook
from veraicon.sections_hl7v2 import Hl7v2DestinationSettings, Hl7v2Settings

_TOLD = frozenset({"order.completed", "order.refused"})


@dataclass(frozen=True)
class Hl7Channel:
    """One kind of message to one engine.

    It is told once an order has come to its end: completed (with or without volumes), refused, or ignored although it asked for
    volumes by name. Nothing is sent of an order that its placer took back. AE and CE are tried again with back-off; AR and CR
    are kept as failed, for `veraicon order tell`.
    """

    book: OrderBook
    peer: MllpPeer
    us: Identity
    receiver: Receiver
    message: str
    sender: str = ""
    link: str = ""
    character_set: str = ""

    @property
    def name(self) -> str:
        """Name of the destination and the kind of message."""
        return f"hl7v2:{self.receiver.name}:{self.message}"

    def wants(self, news: News) -> bool:
        """Take the end of an order that came by HL7 v2."""
        order = news.order
        if order is None or order.origin is not OrderOrigin.HL7V2 or news.order_state is OrderState.REVOKED:
            return False
        if self.sender and order.sender != self.sender:
            return False
        if self.message == MDM:
            return news.kind == "order.completed" and any(job.state == "attested" for job in news.jobs)
        return news.kind in _TOLD or (news.kind == "order.ignored" and order.names_us)

    def send(self, news: News) -> None:
        """Send the message and read its acknowledgement; see `veraicon.orders.channels.Channel`."""
        if news.order is None:
            return
        asked = read_message(self.book.row(news.order.order_id).raw, self.character_set)
        content = result_message(news, asked, self.message, us=self.us, receiver=self.receiver, link_of=self._link_of)
        require_accepted(self.peer.ask(content), control_id_of(news, self.message, self.receiver), name=self.receiver.name)

    def _link_of(self, job: JobNews) -> str:
        return self.link.replace("{study}", job.study_uid) if self.link and job.study_uid else ""


def require_accepted(answer: bytes, control_id: str, *, name: str) -> None:
    """Take an acknowledgement for what it says.

    Raises
    ------
    PeerError
        On AE and CE: the message may be taken later.
    PeerRefused
        On AR and CR: it never will be as it is.
    PeerAnswerInvalid
        If it is no acknowledgement, or one of another message.

    References
    ----------
    HL7 v2.5.1 table 0008, 2.9.2, 2.9.3.
    """
    try:
        said = answer_of(read_message(answer))
    except VeraiconError as error:
        raise _invalid(f"an answer that cannot be read ({error.code})", name) from error
    if said is None or said.control_id != control_id:
        raise _invalid("an answer that acknowledges another message, or none", name)
    if said.code in ("AA", "CA"):
        return
    if said.code not in ("AE", "CE", "AR", "CR"):
        raise _invalid("an acknowledgement code that is none of table 0008", name)
    kind = PeerError if said.code in ("AE", "CE") else PeerRefused
    raise kind(
        found=f"acknowledgement {said.code} of HL7 v2 destination {name}, condition {said.reason[:8] or 'not said'}",
        allowed="AA or CA",
        action="look at the message in the engine; after its channel is mended: `veraicon order tell`",
    )


def hl7v2_peer(remote: Hl7v2DestinationSettings, ours: Hl7v2Settings) -> MllpPeer:
    """Return a configured destination as we call it.

    Raises
    ------
    ConfigurationError
        If a certificate, key or file of authorities cannot be used.
    """
    ca, certificate, key = (Path(name) if name else None for name in (remote.tls_ca, ours.tls_certificate, ours.tls_key))
    tls = ClientTls(ca, certificate, key, check_host=remote.tls_check_host).context() if remote.tls else None
    return MllpPeer(remote.name, remote.host, remote.port, remote.timeout_s, tls)


def hl7v2_channels(book: OrderBook, ours: Hl7v2Settings, remotes: Sequence[Hl7v2DestinationSettings]) -> tuple[Hl7Channel, ...]:
    """Return a channel for each destination and kind of message that it gets."""
    return tuple(
        Hl7Channel(
            book,
            hl7v2_peer(remote, ours),
            Identity(ours.application, ours.facility),
            Receiver(remote.name, remote.application, remote.facility, remote.character_set),
            message,
            remote.sender,
            remote.link,
            ours.character_set,
        )
        for remote in remotes
        for message in remote.messages
    )


def _invalid(found: str, name: str) -> PeerAnswerInvalid:
    return PeerAnswerInvalid(
        found=f"{found} from HL7 v2 destination {name}",
        allowed="an ACK with MSA-2 equal to our MSH-10",
        action="have the engine acknowledge each message by itself, then `veraicon order tell`",
    )
