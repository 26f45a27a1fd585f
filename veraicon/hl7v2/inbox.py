"""What is done with an HL7 v2 message: kept, understood, done once, and acknowledged by what MSH-15 and MSH-16 ask for."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog

from domain.errors import BodyTooLarge, BodyUnsupported, OrderConflict, RequestInvalid, StorageExhausted, VeraiconError
from domain.ordering import Order, OrderState
from fhir_adapter.hl7v2.acknowledging import Identity, Verdict, acknowledgement, verdict_of, wanted
from fhir_adapter.hl7v2.identities import Issuers
from fhir_adapter.hl7v2.merging import merges_of
from fhir_adapter.hl7v2.message import Header, Message, read_header, read_message
from fhir_adapter.hl7v2.orders import KINDS, Action, AskedOrder, OrderReading, orders_of
from veraicon import faults
from veraicon.hl7v2.book import MessageBook, MessageState
from veraicon.hl7v2.tables import Hl7MessageRow
from veraicon.merges import MergeBook
from veraicon.orders.book import OrderBook, order_of
from veraicon.orders.tables import OrderRow
from veraicon.recall.outputs import aware
from veraicon.settings import Settings

_log = structlog.get_logger()


def reading_of(settings: Settings) -> OrderReading:
    """Return how a site's order messages are read."""
    issuers = Issuers(settings.pairing.issuers, settings.pairing.patient_id_system, settings.hl7v2.identifier_types)
    return OrderReading(issuers, settings.hl7v2.accession_fields)


def message_of(content: bytes, settings: Settings) -> Message:
    """Return a message as a site reads it; see `fhir_adapter.hl7v2.message.read_message`."""
    return read_message(content, settings.hl7v2.character_set)


@dataclass(frozen=True)
class Outcome:
    """What became of a message."""

    state: MessageState
    orders: tuple[str, ...] = ()
    error: VeraiconError | None = None


@dataclass(frozen=True)
class Inbox:
    """Takes messages."""

    settings: Settings
    messages: MessageBook
    orders: OrderBook
    merges: MergeBook
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def take(self, content: bytes, _host: str = "") -> Iterator[bytes]:
        """Keep a message, do what it asks, and yield its acknowledgements: in enhanced mode up to two.

        A message that cannot be read is kept too. One that cannot be kept, since the database is away or the disk is full, is
        answered in error, so its sender keeps it.
        """
        yield from self._take(content, *self._header_of(content))

    def refuse(self, beginning: bytes, _host: str = "") -> Iterator[bytes]:
        """Answer a message that is too long, of which only the beginning is there: MSH is kept, so that it is in the list."""
        first = re.split(rb"[\r\n]", beginning.lstrip(), maxsplit=1)[0] + b"\r"
        too_long = BodyTooLarge(
            found=f"a message of more than {self.settings.hl7v2.maximum_message_mib} MiB, of which only MSH is kept",
            allowed="messages up to [hl7v2] maximum_message_mib",
            action="send less in one message, or raise the limit and send it again",
        )
        header, unreadable = self._header_of(first)
        yield from self._take(first, header, too_long if header.control_id else unreadable or too_long)

    def _take(self, content: bytes, header: Header, unreadable: VeraiconError | None) -> Iterator[bytes]:
        try:
            row = self.messages.keep(header, content)
        except sa.exc.SQLAlchemyError:
            yield from self._answers(header, _not_kept(), accepted=False)
            return
        faults.reach("hl7v2:kept")
        if header.enhanced and wanted(header.accept, verdict_of(unreadable)):
            yield self._answer(header, unreadable, accept=True)
        outcome = self._done_before(row) if unreadable is None else Outcome(MessageState.REFUSED, error=unreadable)
        if outcome is None:
            outcome = self._judge(row)
        if row.state in (MessageState.RECEIVED.value, MessageState.REFUSED.value):
            self._note(row, outcome)
        faults.reach("hl7v2:done")
        yield from self._application_answer(header, outcome.error)

    def _header_of(self, content: bytes) -> tuple[Header, VeraiconError | None]:
        """Return the header, and why a message cannot be read at all; an empty header where even MSH cannot."""
        try:
            header = read_header(content, self.settings.hl7v2.character_set)
        except VeraiconError as error:
            return Header(), error
        try:
            message_of(content, self.settings)
        except VeraiconError as error:
            return header, error
        return header, None

    def sweep(self, *, before: datetime) -> int:
        """Do what was kept before a moment and not done: we were stopped between the two; return how many there were."""
        waiting = self.messages.waiting(before=before)
        for message_id in waiting:
            row = self.messages.row(message_id)
            self._note(row, self._judge(row))
        return len(waiting)

    def again(self, message_id: str) -> Outcome:
        """Do what a kept message asks, once more: after a setting was mended.

        Raises
        ------
        ResourceNotFound
            If there is none of this id.
        RequestInvalid
            If it is done already.
        """
        row = self.messages.row(message_id)
        if row.state in (MessageState.DONE.value, MessageState.NOT_NEEDED.value):
            raise RequestInvalid(
                found=f"a message in state {row.state}",
                allowed="refused or received",
                action="retry its orders: `veraicon order retry`",
            )
        outcome = self._judge(row)
        self._note(row, outcome)
        return outcome

    def _note(self, row: Hl7MessageRow, outcome: Outcome) -> None:
        self.messages.note(row.message_id, outcome.state, orders=outcome.orders, error=outcome.error)
        code = outcome.error.code if outcome.error else None
        _log.info("message taken", action="hl7v2", message_id=row.message_id, state=outcome.state.value, code=code)

    def _done_before(self, row: Hl7MessageRow) -> Outcome | None:
        done = row.state in (MessageState.DONE.value, MessageState.NOT_NEEDED.value)
        return Outcome(MessageState(row.state), tuple(row.orders)) if done else None

    def _judge(self, row: Hl7MessageRow) -> Outcome:
        try:
            return self._do(row)
        except sa.exc.SQLAlchemyError:  # it stays received; its sender, or somebody by hand, tries again
            return Outcome(MessageState.RECEIVED, error=_not_kept())
        except VeraiconError as error:
            return Outcome(MessageState.REFUSED, error=error)

    def _do(self, row: Hl7MessageRow) -> Outcome:
        message = message_of(row.raw, self.settings)
        self._require_welcome(message.header)
        # A message that was left behind counts from when it came: it must not undo what came after it.
        came = aware(row.received_at)
        if message.header.kind in KINDS:
            asked = orders_of(message, reading_of(self.settings), came)
            met = tuple(one.order.order_id for one in asked if self._follow(one, row.raw))
            return Outcome(MessageState.DONE if met else MessageState.NOT_NEEDED, met)
        if message.header.code == "ADT":
            merges = merges_of(message, reading_of(self.settings).issuers)
            noted = self.merges.note(merges, row.message_id, came)
            return Outcome(MessageState.DONE if noted else MessageState.NOT_NEEDED)
        raise BodyUnsupported(
            found=f"message type {message.header.kind[:16]!r}",
            allowed="ORM^O01, OMI^O23 and ADT",
            action="have the engine send us only what docs/hl7v2.md lists",
        )

    def _follow(self, asked: AskedOrder, raw: bytes) -> bool:
        """Do what one order of a message wants; False where nothing has to be done."""
        if asked.action is Action.NOTHING:
            return False
        if asked.action is Action.REVOKE:
            self.orders.revoke(asked.order, "the placer cancelled or discontinued it", raw)
            return True
        return self.orders.take(asked.order, raw) or is_met(self.orders.row(asked.order.order_id), asked.order)

    def _require_welcome(self, header: Header) -> None:
        ours = self.settings.hl7v2
        checks = (
            (not ours.senders or header.sender in ours.senders, "a sender in MSH-3 and MSH-4", "[hl7v2] senders"),
            (
                header.processing[:1] in ours.processing,
                f"processing id {header.processing[:8]!r} in MSH-11",
                "[hl7v2] processing",
            ),
            (header.version in ours.versions, f"version {header.version[:8]!r} in MSH-12", "[hl7v2] versions"),
        )
        for ok, found, where in checks:
            if not ok:
                raise BodyUnsupported(
                    found=f"{found} that this site does not take",
                    allowed=f"what {where} lists",
                    action=f"change the channel, or {where}",
                )

    def _application_answer(self, header: Header, error: VeraiconError | None) -> Iterator[bytes]:
        if not header.enhanced or wanted(header.answer, verdict_of(error)):
            yield self._answer(header, error, accept=False)

    def _answers(self, header: Header, error: VeraiconError, *, accepted: bool) -> Iterator[bytes]:
        if header.enhanced and wanted(header.accept, Verdict.ERROR):
            yield self._answer(header, error, accept=True)
        elif not accepted:
            yield from self._application_answer(header, error)

    def _answer(self, header: Header, error: VeraiconError | None, *, accept: bool) -> bytes:
        ours = self.settings.hl7v2
        return acknowledgement(
            header,
            accept=accept,
            verdict=verdict_of(error),
            error=error,
            now=self.clock(),
            us=Identity(ours.application, ours.facility),
            control_id=uuid.uuid4().hex[:20].upper(),
        )


def is_met(held: OrderRow, order: Order) -> bool:
    """Return whether an order that changed nothing is what the book has already; False where it came too late to count.

    Raises
    ------
    OrderConflict
        If it can no longer be done, and its sender has to know.
    """
    kept = order_of(held)
    revoked = held.state == OrderState.REVOKED.value
    if replace(kept, received_at=order.received_at) == order and not revoked:
        return True
    if order.received_at < kept.received_at:
        return False
    if revoked and not (kept.codes or kept.study_uid or kept.accession):  # it was taken back before it came
        return False
    raise OrderConflict(
        found="an order under a number that was taken back" if revoked else f"a change of an order that is {held.state}",
        allowed="a change until requests are made, and no second order under a number that was taken back",
        action="place it under a number of its own",
    )


def _not_kept() -> StorageExhausted:
    return StorageExhausted(
        found="a message that could not be kept",
        allowed="a database that can be written",
        action="send the message again later",
    )
