"""Section 5 of the statement: each service, as SCU and as SCP."""

from __future__ import annotations

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from dicom_node.commitment.messages import FailureReason
from dicom_node.conformance.contexts import syntax_name
from dicom_node.conformance.document import Section, Table, not_supported
from dicom_node.conformance.facts import Facts
from dicom_node.conformance.web import web_services
from dicom_node.holding.procedure_steps import StepState
from dicom_node.holding.rejecting import REJECTION_TITLES
from dicom_node.objects.file_set import FILE_SET_ID
from dicom_node.presentation import RECEIVED_SYNTAXES, UNCOMPRESSED
from dicom_node.query import UNIQUE_KEYS, Root, known_keys
from dicom_node.services.procedure_step import REQUIRED
from dicom_node.services.storage import PRIOR_MOVE_ID
from dicom_node.statuses import STORE_WARNINGS, in_words

# How `dicom_node.querying.matching` compares, by VR.
_MATCHING = {
    "UI": "single value, list of UIDs, universal",
    "DA": "single value, range, universal",
    "TM": "single value, range, universal",
    "PN": "single value, wildcard, universal; without regard to case, and for each component group",
    "IS": "single value, universal",
    "US": "single value, universal",
}
_TEXT_MATCHING = "single value, wildcard, universal"


def services(facts: Facts) -> Section:
    """Return section 5."""
    return Section(
        "5",
        "Service and Interoperability Description",
        sections=(
            Section(
                "5.1",
                "Mapping of Services to Application Entities",
                (f"One Application Entity, {facts.node.ae_title} by its settings, does all of it as SCU and SCP.",),
            ),
            _dimse(facts),
            web_services("5.3", facts.web),
            _media("5.4"),
            not_supported("5.5", "Real-Time Video Services"),
            _cross_service(facts),
            _character_sets(),
        ),
    )


def _dimse(facts: Facts) -> Section:
    return Section(
        "5.2",
        "DIMSE Services",
        ("Verification is done as SCU (`veraicon peer echo`, `veraicon doctor`) and as SCP, in every association.",),
        sections=(
            not_supported("5.2.1", "Basic Worklist Management"),
            _procedure_steps("5.2.2"),
            not_supported("5.2.3", "Unified Worklist and Procedure Step"),
            not_supported("5.2.4", "Instance Availability Notification"),
            _storage("5.2.5", facts),
            _commitment("5.2.6", facts),
            _query_retrieve("5.2.7"),
            not_supported("5.2.8", "Print Management"),
        ),
    )


def _procedure_steps(number: str) -> Section:
    return Section(
        number,
        "Modality Performed Procedure Step",
        (
            "As SCU: not supported.",
            "As SCP: N-CREATE and N-SET are kept durably before they are answered. States are "
            f"{', '.join(state.value for state in StepState)}. When a step is completed, the instances that its Performed "
            "Series Sequence lists decide when a received series is complete. Of a step the state and the listed instances "
            "are kept, and nothing else. N-GET and the retrieve and notification SOP classes are not supported.",
        ),
        (
            Table.of(
                "Attributes that N-CREATE must bring, each with a value",
                ("Attribute", "Tag"),
                ((dictionary_description(keyword), _tag(keyword)) for keyword in REQUIRED),
            ),
        ),
    )


def _storage(number: str, facts: Facts) -> Section:
    warnings = ", ".join(f"0x{status:04X}" for status in sorted(STORE_WARNINGS))
    scu = Section(
        f"{number}.1",
        "SCU of the Storage SOP Classes",
        (
            "Instances are sent when a volume is published, when it is recalled (its rejection note), and as sub-operations "
            "of C-MOVE and C-GET. Each pair of SOP "
            "class and transfer syntax has a presentation context of its own, beside the uncompressed ones; more pairs "
            "than one association can carry are spread over several.",
            f"Success and the warnings {warnings} count as accepted. An association that ends too early is opened again for "
            "the rest; UIDs stay, so a repeat is harmless. A publication that was not accepted whole is tried again as a "
            "whole.",
            "Transcoding: an instance goes in the transfer syntax in which it is held where the receiver accepts that. In "
            "sub-operations it is otherwise decoded to an uncompressed one, if a decoder is installed; nothing is "
            "compressed, and nothing is made lossy. What cannot be sent fails alone.",
        ),
    )
    scp = Section(
        f"{number}.2",
        "SCP of the Storage SOP Classes",
        (
            "Level 2 (full): every attribute is kept, standard and private, since the data set is kept byte for byte as it "
            "came. No attribute is coerced. Digital signatures in it stay intact.",
            "Each storage SOP class is accepted, private ones and unknown ones too, in the first transfer syntax that the "
            "requestor proposes for it, whatever that is: the bytes are not decoded on receipt. Received series can be "
            "read as a source where a decoder is installed.",
            "Success means that bytes and index row are on disk. An instance that is held already is answered with Success "
            "and not stored twice. Other bytes under a held SOP Instance UID are kept aside, do not replace it, and are "
            "told in the log and by `veraicon archive conflicts`. With less than "
            f"{facts.node.min_free_bytes // 2**20} MiB left on disk, instances are refused with {in_words(0xA700)}.",
            "Rejection notes: a Key Object Selection document whose title is one of "
            + ", ".join(f"({code}, DCM, {meaning})" for code, meaning in REJECTION_TITLES.items())
            + ", from a listed source or destination or of our own, hides the instances that it names (as an Image Manager of "
            "IHE IOCM that is configured to hide for each title): they are answered by no query and no retrieval, whichever "
            "came first, and never are a source. Their bytes are kept, and `veraicon archive rejected` lists them. The note "
            "itself stays visible, also under (113039, DCM). A note of anybody else is stored and not heeded.",
        ),
        (
            Table.of(
                "Transfer syntaxes that we propose where we fetch by C-GET, in our order",
                ("Transfer Syntax", "UID"),
                ((uid.name, uid) for uid in RECEIVED_SYNTAXES),
            ),
        ),
    )
    return Section(number, "Storage", sections=(scu, scp))


def _commitment(number: str, facts: Facts) -> Section:
    return Section(
        number,
        "Storage Commitment",
        (
            "As SCU: a destination is asked to commit to what was published to it, unless its settings say otherwise. The "
            "report is awaited for a few seconds on the same association, then taken on an association of the peer's own "
            "to our node. A destination that does not offer the service is noted, or is an error where commitment is "
            "required.",
            "As SCP (Push Model): an N-ACTION is kept durably before it is answered. Committed is what the index knows and "
            "whose file has the digest with which it was received; for how long it is kept is up to the site: nothing is "
            "ever deleted by itself. The N-EVENT-REPORT goes out on the association of the request while that is open, "
            "otherwise on one of our own, with the SCP role proposed, if the settings name host and port of the requestor; "
            "it is tried again with growing pauses, also after a restart, for a week.",
            f"The node is asked with {facts.node.ae_title} as called AE title, as for everything else.",
        ),
        (
            Table.of(
                "Failure Reason (0008,1197) in our reports (PS3.3 C.14.1.1)",
                ("Code", "Meaning"),
                ((f"0x{reason:04X}", reason.name.replace("_", " ").lower()) for reason in FailureReason),
            ),
        ),
    )


def _query_retrieve(number: str) -> Section:
    scu = (
        "As SCU: C-FIND in the Study Root, and in the Patient Root for patients (`veraicon peer find`); C-GET and C-MOVE "
        "to our own node in the Study Root (`veraicon peer pull`). No extended negotiation is proposed. Queries are "
        "hierarchical. Studies that a peer returns for another accession number or Patient ID than was asked for are not "
        f"fetched. A C-MOVE that fetches priors has the Message ID 0x{PRIOR_MOVE_ID:04X}; our node knows its sub-operations by "
        "it, where the peer names the Move Originator."
    )
    scp = (
        "As SCP: C-FIND, C-MOVE and C-GET in both models and at every level. Keys above and below the level may be left "
        "out: relational queries and retrievals are answered and, where the requestor proposes that, granted; so are "
        "combined ranges of date and time. Fuzzy semantic matching of names and timezone adjustment are not granted. "
        "Matching is for each attribute as in the tables; keys that are not in them, sequences among them, match "
        "everything and are not returned, and each match says so by 0xFF01."
    )
    retrieve = (
        "Retrieval takes unique keys only, with lists. Sub-operations are counted in each response, and can be cancelled. "
        "A move destination has to be a configured peer with host and port. A C-STORE sub-operation of a C-MOVE carries "
        "Move Originator AE title and Message ID."
    )
    tables = [
        Table.of(
            f"{root.name.title()} Root, level {level}",
            ("Attribute", "Tag", "VR", "Type", "Matching"),
            (
                (
                    dictionary_description(keyword),
                    _tag(keyword),
                    dictionary_VR(keyword),
                    "U" if keyword == UNIQUE_KEYS[level] else "O",
                    _MATCHING.get(dictionary_VR(keyword), _TEXT_MATCHING),
                )
                for keyword in known_keys(level)
            ),
        )
        for root, levels in ((Root.PATIENT, Root.PATIENT.value), (Root.STUDY, ("STUDY",)))
        for level in levels
    ]
    same = "Series and image level of the Study Root have the keys of the Patient Root's."
    extra = (
        "Each answer also has Query/Retrieve Level (0008,0052), Retrieve AE Title (0008,0054), the unique key of its "
        "level, and, where it was asked for, Instance Availability (0008,0056), which is ONLINE."
    )
    return Section(number, "Query/Retrieve", (scu, scp, retrieve, same, extra), tuple(tables))


def _media(number: str) -> Section:
    return Section(
        number,
        "Media Services",
        (
            "As File-Set Creator, `veraicon export` writes series of our archive into a folder with a DICOMDIR (PS3.10): "
            f"File-Set ID {FILE_SET_ID}, names such as PT000000/ST000000/SE000000/IM000000. Files keep their bytes and with "
            "them their transfer syntax, so that no application profile of PS3.11 is claimed. Numbers that a directory "
            "must name and an instance leaves empty are 0 in the directory alone.",
            "As File-Set Reader and Updater: not supported.",
        ),
    )


def _cross_service(facts: Facts) -> Section:
    return Section(
        "5.6",
        "Cross-Service Considerations",
        (
            f"A received series is complete after {facts.node.settle_s:g} s without a new instance; sooner where it states "
            "how many instances it has, or a completed procedure step lists them, and all are here; later where some are "
            "known to be missing; at once where somebody declares it complete (`veraicon series settle`).",
            "What arrives by C-STORE, C-GET, C-MOVE, STOW-RS and our own WADO-RS requests is one archive, and what is "
            "published without a destination is kept there too; C-FIND, C-MOVE, C-GET, QIDO-RS and WADO-RS answer from it. "
            "Of a prior that was fetched with the studies of an accession nothing is generated by itself.",
        ),
    )


def _character_sets() -> Section:
    return Section(
        "5.7",
        "Specific Character Sets",
        (
            "Received instances keep the character set in which they came, byte for byte; the index decodes text by it. "
            "Published instances use ISO_IR 192.",
            "Query keys are decoded by the Specific Character Set of the request, single or with code extensions. Answers "
            "come in that set where every text fits into it, otherwise in ISO_IR 192; DICOM JSON is UTF-8.",
            f"Identifiers are exchanged in {' or '.join(syntax_name(uid) for uid in UNCOMPRESSED)}.",
        ),
    )


def _tag(keyword: str) -> str:
    tag = Tag(tag_for_keyword(keyword) or 0)
    return f"({tag.group:04X},{tag.element:04X})"
