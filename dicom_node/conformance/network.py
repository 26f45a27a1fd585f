"""Section 7 of the statement: associations, presentation contexts, statuses."""

from __future__ import annotations

from collections.abc import Iterator

from dicom_node.association.bounding import MAX_IDENTIFIER_BYTES
from dicom_node.association.wire import SHORTEST_PDU
from dicom_node.conformance.answers import CONTRACTS
from dicom_node.conformance.contexts import NamedContext, accepted, activities, syntax_name
from dicom_node.conformance.document import Section, Table
from dicom_node.conformance.facts import Facts
from dicom_node.holding.files import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dicom_node.scu import MAXIMUM_PDU
from dicom_node.statuses import Status
from domain.errors import InstanceMismatch, PeerRefused, RequestInvalid, StorageExhausted, UnreadableInstance, VeraiconError

_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_CONTEXT_COLUMNS = ("SOP Class", "UID", "Transfer Syntaxes", "Role")
# Errors of ours that an operation can meet, with what it then answers (`dicom_node.services`).
_ANSWERED_ERRORS: tuple[tuple[type[VeraiconError], int], ...] = (
    (PeerRefused, Status.MOVE_DESTINATION_UNKNOWN),
    (UnreadableInstance, UnreadableInstance.dimse_status),
    (InstanceMismatch, InstanceMismatch.dimse_status),
    (RequestInvalid, Status.IDENTIFIER_DOES_NOT_MATCH),
    (StorageExhausted, StorageExhausted.dimse_status),
)
_EVERY_STORAGE = ("every storage SOP class", "table 1-1, and private or unknown ones")
_NAMED_STORAGE = ("every storage SOP class that the standard names", "table 1-1; private and unknown ones are refused")


def network(facts: Facts) -> Section:
    """Return section 7."""
    return Section(
        "7",
        "Network and Media Communication Details",
        sections=(_association(facts), _specification(facts), _statuses(facts)),
    )


def _association(facts: Facts) -> Section:
    node = facts.node
    rows = [
        ("Application Context Name", _APPLICATION_CONTEXT),
        ("Implementation Class UID", IMPLEMENTATION_CLASS_UID),
        ("Implementation Version Name", IMPLEMENTATION_VERSION_NAME),
        ("Maximum PDU length, as acceptor", f"{node.maximum_pdu} bytes; a longer P-DATA-TF PDU is answered with A-ABORT"),
        ("Maximum PDU length, as initiator", f"{MAXIMUM_PDU} bytes"),
        ("Associations at the same time, as acceptor", f"{node.maximum_associations}, and fewer for a source where set"),
        ("Associations at the same time, as initiator", "one for each task; tasks run beside each other"),
        ("Asynchronous operations window", "not supported: one operation at a time"),
        ("SOP Class Common Extended Negotiation", "not supported"),
        (
            "Messages in memory (all but C-STORE), of one association together",
            f"{node.maximum_message_bytes // 2**20} MiB, of which {MAX_IDENTIFIER_BYTES // 2**20} MiB for an identifier of "
            "C-FIND, C-GET or C-MOVE; more is answered with A-ABORT",
        ),
        ("From connection to association request, and TLS handshake (ARTIM)", f"{node.artim_timeout_s:g} s"),
        ("For an answer within an association", f"{node.dimse_timeout_s:g} s"),
        ("From the first byte of a PDU to its last", f"{node.pdu_timeout_s:g} s"),
        ("Without any traffic", f"{node.idle_timeout_s:g} s, then the association is aborted"),
        (
            "For connection, association and each answer, as initiator",
            ", ".join(f"{one:g} s" for one in facts.remotes.timeouts_s) or "as set for each destination",
        ),
    ]
    return Section("7.1", "General", tables=(Table.of("Table 7-1. Association parameters", ("Parameter", "Value"), rows),))


def _specification(facts: Facts) -> Section:
    ae_title = facts.node.ae_title
    proposed = [
        (activity.name, one.name, one.abstract_syntax, _syntaxes(one), one.role)
        for activity in activities()
        for one in activity.contexts
    ]
    sent = (
        "Publish, or send as sub-operations (C-STORE)",
        *_EVERY_STORAGE,
        "that of each instance; both uncompressed ones",
        "SCU",
    )
    fetched = ("Fetch from a peer (C-GET)", *_EVERY_STORAGE, "those of 5.2.5.2", "SCP by role selection")
    accepts = [(one.name, one.abstract_syntax, _syntaxes(one), one.role) for one in accepted()]
    taken = _EVERY_STORAGE if facts.node.unknown_storage_classes else _NAMED_STORAGE
    anything = (*taken, "any; the first that is proposed", "SCP, or SCU for C-GET by role selection")
    return Section(
        "7.2",
        "Specifications",
        sections=(
            Section(
                "7.2.1",
                f"Application Entity {ae_title}",
                sections=(
                    Section(
                        "7.2.1.1",
                        "Association Initiation",
                        ("An association is opened for one activity and released after it.",),
                        (
                            Table.of(
                                "Proposed presentation contexts", ("Activity", *_CONTEXT_COLUMNS), [*proposed, sent, fetched]
                            ),
                        ),
                    ),
                    Section(
                        "7.2.1.2",
                        "Association Acceptance",
                        (
                            "Other abstract syntaxes are refused with result 3, other transfer syntaxes of the listed ones "
                            "with result 4. A requestor of C-GET that offers several syntaxes in one context is given an "
                            "uncompressed one, so that every instance can be sent.",
                        ),
                        (
                            Table.of("Accepted presentation contexts", _CONTEXT_COLUMNS, [*accepts, anything]),
                            Table.of("Rejections", ("Result", "Source", "Reason", "When"), _rejections()),
                        ),
                    ),
                ),
            ),
        ),
    )


def _rejections() -> Iterator[tuple[str, str, str, str]]:
    """PS3.8 table 9-21, as `dicom_node.association.policy` uses it."""
    permanent, transient = "1, rejected-permanent", "2, rejected-transient"
    user, presentation = "1, service-user", "3, service-provider (presentation related)"
    yield permanent, user, "7, called-AE-title-not-recognized", "another called AE title than ours"
    yield permanent, user, "3, calling-AE-title-not-recognized", "the calling AE title is not listed, or not from this host"
    yield permanent, user, "1, no-reason-given", "the source is to call over TLS only"
    yield permanent, user, "1, no-reason-given", f"the caller takes no PDU of {SHORTEST_PDU} octets"
    yield transient, presentation, "2, local-limit-exceeded", "as many associations as the node or the source may have are open"


def _statuses(facts: Facts) -> Section:
    contracts = tuple(
        Table.of(
            f"{contract.operation} ({contract.clause})",
            ("Code", "Meaning", "When"),
            ((f"0x{one.status:04X}", one.meaning, one.when) for one in contract.answers),
        )
        for contract in CONTRACTS
    )
    errors = Table.of(
        "Codes in Error Comment (0000,0902)",
        ("Code", "Name", "Status"),
        ((kind.code, kind.__name__, f"0x{status:04X}") for kind, status in _ANSWERED_ERRORS),
    )
    web = Table.of("HTTP statuses", ("Status", "When"), ((one.status, one.when) for one in facts.web.statuses))
    return Section(
        "7.3",
        "Status Codes",
        sections=(
            Section("7.3.1", "DIMSE services, as SCP", tables=contracts),
            Section(
                "7.3.2",
                "Errors by name",
                ("Where one of these is answered, Error Comment begins with its code, which the log has too.",),
                (errors,),
            ),
            Section(
                "7.3.3",
                "DIMSE services, as SCU",
                (
                    "Success is success; for C-STORE also the warnings of 5.2.5.1. C-FIND, C-GET and C-MOVE are followed "
                    "through 0xFF00 and 0xFF01. Any other status, no answer in time and a connection that ends are errors "
                    "that name the peer and the status; what may pass by itself is tried again with growing pauses.",
                ),
            ),
            Section("7.3.4", "DICOM Web Services", tables=(web,)),
        ),
    )


def _syntaxes(context: NamedContext) -> str:
    return ", ".join(syntax_name(uid) for uid in context.transfer_syntaxes)
