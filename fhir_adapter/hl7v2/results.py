"""What became of an order, as ORU^R01 and MDM^T02. Pure.

The message goes to the record from which the order came, so that whoever asked finds the answer; it never states a finding
about that patient. Its first words are that the images are synthetic, and none of its codes is that of an examination.

An order of an examination that a routing rule covers stays open: the message is a result of its own then, and names that order
in words only. Were its number or its code echoed, a record would close the examination as done, or as cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from domain.identifiers import derive_uuid
from domain.ordering import JobNews, News
from fhir_adapter.hl7v2.acknowledging import Identity, render, stamp
from fhir_adapter.hl7v2.message import Message, Segment, groups
from fhir_adapter.hl7v2.orders import OURS, reference_of
from fhir_adapter.hl7v2.texts import STANDARD, UNICODE, escape
from fhir_adapter.ordering.codes import GENERATE, TASK_SYSTEM

ORU, MDM = "ORU^R01", "MDM^T02"
SYNTHETIC = (
    "SYNTHETIC IMAGES, computer-made. They show no part of this patient, are filed under a synthetic patient of their own, "
    "and must not be used for care."
)
_STRUCTURES = {ORU: "ORU^R01^ORU_R01", MDM: "MDM^T02^MDM_T02"}
# MSH-10 has at most 20 characters up to v2.6.
_CONTROL_ID = 20
_VERSION = "2.5.1"
_SERVICE = f"{GENERATE}^Synthetic volume^{OURS}"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is told: MSH-5 and MSH-6, and in which character set; `name` is the one in the settings."""

    name: str
    application: str = ""
    facility: str = ""
    character_set: str = UNICODE


def control_id_of(news: News, kind: str, receiver: Receiver) -> str:
    """Return MSH-10: the same for the same news, kind of message and receiver, so that a repeat is known as one."""
    return derive_uuid(news.news_id, "hl7v2", kind, receiver.name).hex[:_CONTROL_ID].upper()


def result_message(
    news: News, asked: Message, kind: str, *, us: Identity, receiver: Receiver, link_of: Callable[[JobNews], str]
) -> bytes:
    """Return the message that tells what became of an order.

    Parameters
    ----------
    news : News
        ``order.completed``, ``order.refused`` or ``order.ignored``; it has its order.
    asked : Message
        The order message as it came: its PID and MSH-11 are echoed; its numbers only where what it orders is a volume of ours.
    kind : str
        ``ORU^R01`` or ``MDM^T02``.
    link_of : callable
        Gives a web address of a published study, or nothing.

    References
    ----------
    HL7 v2.5.1 7.3.1 (ORU), 7.4.1 (OBR), 7.4.2 (OBX), tables 0085 and 0123; 9.6.2 (MDM^T02), 9.7.1 (TXA), tables 0271 and 0273.
    """
    group = _group(news, asked)
    header = _header(news, asked, kind, us, receiver)
    pid = _pid(asked)
    if kind == MDM:
        body = [["EVN", "T02", stamp(news.at)], pid, ["PV1", "1", "N"], _txa(news, group), *_document(news, group, link_of)]
    else:
        body = [pid, _orc(news, group), _obr(news, group), *_observations(news, group, link_of)]
    return render([header, *body], receiver.character_set)


def _header(news: News, asked: Message, kind: str, us: Identity, receiver: Receiver) -> list[str]:
    ends = map(escape, (us.application, us.facility, receiver.application, receiver.facility))
    control_id = control_id_of(news, kind, receiver)
    # What became of a test order is a test too.
    processing = escape(asked.header.processing) or "P"
    head = ["MSH", STANDARD.encoding, *ends, stamp(news.at), "", _STRUCTURES[kind], control_id, processing, _VERSION]
    return [*head, *[""] * 5, receiver.character_set]


def _group(news: News, asked: Message) -> Sequence[Segment]:
    wanted = news.order.reference if news.order else ""
    return next((group for group in groups(asked, "ORC") if reference_of(group) == wanted), ())


def _pid(asked: Message) -> list[str]:
    sent = asked.first("PID")
    # Identifiers, name, birth date, sex and account: by these an engine files the message; what else it knows, it knows.
    kept = {3, 5, 7, 8, 18}
    return ["PID", "1", *(echo(sent, number) if number in kept else "" for number in range(2, 19))]


def echo(segment: Segment | None, number: int) -> str:
    """Return a field as it came, in our delimiters."""
    if segment is None:
        return ""
    if segment.delimiters == STANDARD:
        return segment.raw(number)
    parts = (
        STANDARD.component.join(
            STANDARD.subcomponent.join(escape(one) for one in part.split(segment.delimiters.subcomponent))
            for part in repetition
        )
        for repetition in segment.components(number)
    )
    return STANDARD.repetition.join(parts)


def _field(group: Sequence[Segment], number: int, *names: str) -> str:
    for name in names:
        segment = next((one for one in group if one.name == name), None)
        if said := echo(segment, number):
            return said
    return ""


def _is_for_us(news: News) -> bool:
    """Return whether what was ordered is a volume of ours: by the first code of OBR-4, since its alternate says less."""
    codes = news.order.codes if news.order else ()
    return bool(codes) and (codes[0].system, codes[0].code) == (TASK_SYSTEM, GENERATE)


def _numbers(news: News, group: Sequence[Segment]) -> tuple[str, str]:
    """Return the numbers of placer and filler: of an order that is not for us none but our own."""
    ours = f"{news.order.order_id}^VERAICON" if news.order else ""
    if not _is_for_us(news):
        return "", ours
    placer = _field(group, 2, "ORC", "OBR")
    # We fill the order, so its number at the filler is ours, unless its sender knows it by no other than this.
    return placer, ours if placer else _field(group, 3, "ORC", "OBR") or ours


def _asked_words(group: Sequence[Segment]) -> str:
    """Return in words which order it was, for a person."""
    said = (("placer", 2, "ORC", "OBR"), ("filler", 3, "ORC", "OBR"), ("placer field 1", 18, "OBR"))
    found = []
    for name, number, *segments in said:
        sent = next((one for one in group if one.name in segments and one.text(number)), None)
        if sent is not None:
            found.append(f"{name} {sent.text(number)}")
    return "Order that led to this: " + ", ".join(found) + "." if found else ""


def _succeeded(news: News) -> list[JobNews]:
    return [job for job in news.jobs if job.state == "attested"] if news.kind == "order.completed" else []


def _orc(news: News, group: Sequence[Segment]) -> list[str]:
    # Table 0038: CM completed, CA cancelled (nothing will come).
    state = ("CM" if _succeeded(news) else "CA") if _is_for_us(news) else ""
    return ["ORC", "RE", *_numbers(news, group), "", state]


def _obr(news: News, group: Sequence[Segment]) -> list[str]:
    fields = {1: "1", 4: _SERVICE, 7: stamp(news.at), 22: stamp(news.at)}
    fields[2], fields[3] = _numbers(news, group)
    # Table 0123: F final; X nothing was made, and nothing will be.
    fields[25] = ("F" if _succeeded(news) else "X") if _is_for_us(news) else ""
    return ["OBR", *(fields.get(number, "") for number in range(1, 26))]


def _observations(news: News, group: Sequence[Segment], link_of: Callable[[JobNews], str]) -> list[list[str]]:
    said = [_Said("TX", f"synthetic^Synthetic images^{OURS}", "", escape(SYNTHETIC))]
    said.append(_Said("TX", f"status^Status of the order^{OURS}", "", escape(status_of(news)), final=bool(_succeeded(news))))
    if words := _asked_words(group):
        said.append(_Said("TX", f"order^Order that led to this^{OURS}", "", escape(words)))
    for number, job in enumerate(_succeeded(news), start=1):
        said += _volume(job, str(number), link_of(job))
    for words in _failures(news):
        said.append(_Said("TX", f"failure^Why there is no volume^{OURS}", "", escape(words), final=False))
    return [one.segment(number) for number, one in enumerate(said, start=1)]


@dataclass(frozen=True, slots=True)
class _Said:
    kind: str
    code: str
    sub_id: str
    value: str
    final: bool = True

    def segment(self, number: int) -> list[str]:
        # Table 0085: F final; X the result cannot be obtained.
        return ["OBX", str(number), self.kind, self.code, self.sub_id, self.value, *[""] * 5, "F" if self.final else "X"]


def _volume(job: JobNews, number: str, link: str) -> list[_Said]:
    said = [
        _Said("ST", "110180^Study Instance UID^DCM", number, escape(job.study_uid)),
        _Said("ST", "112002^Series Instance UID^DCM", number, escape(job.series_uid)),
        _Said("NM", f"instances^Number of instances^{OURS}", number, str(job.instances)),
        _Said("ST", f"model^Generated by model^{OURS}", number, escape(job.model)),
    ]
    if job.provenance_reference:
        said.append(_Said("ST", f"provenance^FHIR Provenance^{OURS}", number, escape(job.provenance_reference)))
    if link:
        said.append(_Said("ST", f"link^Where to see it^{OURS}", number, escape(link)))
    return said


def status_of(news: News) -> str:
    """Return in one sentence what became of the order."""
    made = len(_succeeded(news))
    if news.kind == "order.completed":
        return f"{made} of {len(news.jobs)} requested synthetic volumes were made and published."
    return f"Nothing was made: {news.reason or 'the order is not covered by a rule of this site'}."


def _failures(news: News) -> list[str]:
    found = []
    for job in news.jobs:
        if job.state == "attested":
            continue
        error = dict(job.error)
        words = (
            f"{error.get('code', '')}: {error.get('found', '')}; next: {error.get('next', '')}"
            if error
            else "no error is noted"
        )
        found.append(f"volume {job.state}: {words}")
    return found


def _txa(news: News, group: Sequence[Segment]) -> list[str]:
    placer, filler = _numbers(news, group)
    document = f"{derive_uuid(news.news_id, 'document')}^VERAICON"
    # DO: documented, signed by nobody; AV: available for patient care would be wrong, UN is not.
    fields = {1: "1", 2: f"SYN^Synthetic image summary^{OURS}", 3: "TX", 4: stamp(news.at), 6: stamp(news.at), 12: document}
    fields |= {14: placer, 15: filler, 17: "DO", 19: "UN"}
    return ["TXA", *(fields.get(number, "") for number in range(1, 20))]


def _document(news: News, group: Sequence[Segment], link_of: Callable[[JobNews], str]) -> list[list[str]]:
    lines = [SYNTHETIC, status_of(news), *filter(None, [_asked_words(group)])]
    for job in _succeeded(news):
        lines.append(f"Model {job.model}: {job.instances} instances, study {job.study_uid}, series {job.series_uid}.")
        if link := link_of(job):
            lines.append(f"To see it: {link}")
    lines += _failures(news)
    code = f"summary^Summary^{OURS}"
    return [_Said("TX", code, "", escape(line)).segment(number) for number, line in enumerate(lines, start=1)]
