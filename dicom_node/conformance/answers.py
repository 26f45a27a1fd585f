"""The statuses that the node answers, operation by operation; a test holds them against what each handler says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.services.commitment import CommitmentService
from dicom_node.services.find import FindService
from dicom_node.services.procedure_step import ProcedureStepService
from dicom_node.services.retrieve import RetrieveService
from dicom_node.services.storage import InstanceReception
from dicom_node.services.verification import VerificationService
from dicom_node.statuses import NormalizedStatus as Normalized
from dicom_node.statuses import Status


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, what the standard calls it, and when it is answered."""

    status: int
    meaning: str
    when: str


@dataclass(frozen=True, slots=True)
class Contract:
    """What an operation may be answered with.

    Attributes
    ----------
    clause : str
        Where the standard defines it.
    stated_by : object
        The handler whose docstring states the same statuses.
    """

    operation: str
    clause: str
    stated_by: object
    answers: tuple[Answer, ...]


_SUCCESS = "Success"
_NOT_KEPT = Answer(Normalized.RESOURCE_LIMITATION, "Resource limitation", "it cannot be kept now; send it again later")

CONTRACTS = (
    Contract("C-ECHO", "PS3.4 A.4", VerificationService._echo, (Answer(Status.SUCCESS, _SUCCESS, "always"),)),
    Contract(
        "C-STORE",
        "PS3.4 B.2.3",
        InstanceReception,
        (
            Answer(
                Status.SUCCESS,
                _SUCCESS,
                "the instance is durable with its index row; or it was held already; or other bytes hold its UID, and these "
                "are kept aside and told in the log",
            ),
            Answer(
                Status.OUT_OF_RESOURCES, "Refused: Out of resources", "too little room, or archive or index cannot be written"
            ),
            Answer(
                Status.SOP_CLASS_NOT_SUPPORTED,
                "Refused: SOP Class not supported",
                "the instance is of another SOP Class than its presentation context; nothing is kept",
            ),
            Answer(
                Status.IDENTIFIER_DOES_NOT_MATCH,
                "Error: Data Set does not match SOP Class",
                "the data set names another class or instance than its command; the bytes are kept among the refused",
            ),
            Answer(
                Status.CANNOT_UNDERSTAND,
                "Error: Cannot understand",
                "no DICOM or no valid UIDs; the bytes are kept among the refused",
            ),
        ),
    ),
    Contract(
        "C-FIND",
        "PS3.4 C.4.1.1.4",
        FindService._find,
        (
            Answer(Status.PENDING, "Pending", "with each match, where all keys of the request are supported"),
            Answer(
                Status.PENDING_WITHOUT_OPTIONAL_KEYS,
                "Pending: one or more Optional Keys were not supported",
                "with each match, where some are not: these match everything and are not returned",
            ),
            Answer(Status.SUCCESS, _SUCCESS, "after the last match"),
            Answer(Status.CANCEL, "Cancel", "a C-CANCEL came"),
            Answer(Status.OUT_OF_RESOURCES, "Refused: Out of resources", "the index cannot be read"),
            Answer(
                Status.IDENTIFIER_DOES_NOT_MATCH,
                "Error: Data Set does not match SOP Class",
                "Query/Retrieve Level is missing, or none of the model",
            ),
            Answer(Status.CANNOT_UNDERSTAND, "Failed: Unable to process", "the identifier does not parse"),
        ),
    ),
    Contract(
        "C-MOVE and C-GET",
        "PS3.4 C.4.2.1.5, C.4.3.1.4",
        RetrieveService._answer,
        (
            Answer(Status.PENDING, "Pending", "after each sub-operation but the last, with the numbers"),
            Answer(Status.SUCCESS, _SUCCESS, "all sub-operations succeeded, or nothing was asked for that is held"),
            Answer(
                Status.SUBOPERATIONS_WITH_FAILURES,
                "Warning: Sub-operations complete, one or more failures or warnings",
                "some sub-operations failed or had warnings; with Failed SOP Instance UID List",
            ),
            Answer(Status.CANCEL, "Cancel", "a C-CANCEL came; with the numbers"),
            Answer(
                Status.UNABLE_TO_CALCULATE_MATCHES,
                "Refused: Out of resources, unable to calculate number of matches",
                "the index cannot be read",
            ),
            Answer(
                Status.UNABLE_TO_PERFORM_SUBOPERATIONS,
                "Refused: Out of resources, unable to perform sub-operations",
                "all sub-operations failed; with Failed SOP Instance UID List; or more than 65535 instances were asked for",
            ),
            Answer(
                Status.MOVE_DESTINATION_UNKNOWN,
                "Refused: Move Destination unknown",
                "C-MOVE only: the AE title is no configured peer with host and port",
            ),
            Answer(
                Status.IDENTIFIER_DOES_NOT_MATCH,
                "Error: Data Set does not match SOP Class",
                "no level of the model, its unique key is missing or a wildcard",
            ),
            Answer(Status.CANNOT_UNDERSTAND, "Failed: Unable to process", "the identifier does not parse"),
        ),
    ),
    Contract(
        "N-ACTION (Storage Commitment)",
        "PS3.4 J.3.2",
        CommitmentService._action,
        (
            Answer(Normalized.SUCCESS, _SUCCESS, "the request is durable; the report follows"),
            Answer(Normalized.NO_SUCH_SOP_INSTANCE, "No such SOP Instance", "another than the well-known instance"),
            Answer(
                Normalized.INVALID_ARGUMENT_VALUE,
                "Invalid argument value",
                "no transaction UID, no references, or UIDs that are none",
            ),
            Answer(Normalized.NO_SUCH_ACTION, "No such action", "another action type than 1"),
            _NOT_KEPT,
        ),
    ),
    Contract(
        "N-EVENT-REPORT (Storage Commitment)",
        "PS3.4 J.3.3",
        CommitmentService._report,
        (
            Answer(Normalized.SUCCESS, _SUCCESS, "the report is kept"),
            Answer(Normalized.PROCESSING_FAILURE, "Processing failure", "it cannot be kept now"),
            Answer(Normalized.NO_SUCH_EVENT_TYPE, "No such event type", "another event type than 1 and 2"),
            Answer(
                Normalized.INVALID_ARGUMENT_VALUE,
                "Invalid argument value",
                "unreadable, or of no transaction that we asked this peer for",
            ),
        ),
    ),
    Contract(
        "N-CREATE (Modality Performed Procedure Step)",
        "PS3.4 F.7.2.1",
        ProcedureStepService._create,
        (
            Answer(Normalized.SUCCESS, _SUCCESS, "the step is kept"),
            Answer(Normalized.INVALID_ATTRIBUTE_VALUE, "Invalid attribute value", "not IN PROGRESS, or a UID that is none"),
            Answer(Normalized.PROCESSING_FAILURE, "Processing failure", "the data set cannot be read"),
            Answer(Normalized.DUPLICATE_SOP_INSTANCE, "Duplicate SOP Instance", "a step has this UID"),
            Answer(Normalized.INVALID_SOP_INSTANCE, "Invalid SOP Instance", "no UID, or one that is none"),
            Answer(Normalized.MISSING_ATTRIBUTE, "Missing attribute", "an attribute of type 1 is missing"),
            Answer(Normalized.MISSING_ATTRIBUTE_VALUE, "Missing attribute value", "an attribute of type 1 is empty"),
            _NOT_KEPT,
        ),
    ),
    Contract(
        "N-SET (Modality Performed Procedure Step)",
        "PS3.4 F.7.2.2",
        ProcedureStepService._set,
        (
            Answer(Normalized.SUCCESS, _SUCCESS, "the change is kept"),
            Answer(Normalized.INVALID_ATTRIBUTE_VALUE, "Invalid attribute value", "an unknown status, or a UID that is none"),
            Answer(
                Normalized.PROCESSING_FAILURE,
                "Processing failure",
                "the step is completed or discontinued (Error ID 0xA710), or the data set cannot be read",
            ),
            Answer(Normalized.NO_SUCH_SOP_INSTANCE, "No such SOP Instance", "no step has this UID"),
            _NOT_KEPT,
        ),
    ),
)
