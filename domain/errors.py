"""Every error that Veraicon raises on purpose, split by who must act.

    VeraiconError(found, allowed, action)
      ConfigurationError                     operator, before start
      PeerError                              network or remote site
        PeerUnreachable
        PeerRefused
          VersionChanged
        PeerAnswerInvalid
      InputError                             sender
        UnreadableInstance
          InstanceMismatch
        UnsupportedSeries
        IncompleteSeries
        PatientMismatch
        ConsentMissing
        RequestInvalid
          AnswerUnacceptable
          BodyTooLarge
          BodyUnsupported
          OrderConflict
        SignatureRefused
        ResourceNotFound
        CallerUnknown
        ScopeMissing
      GenerationError                        us
        WeightsRejected
        NonFiniteOutput
        DeviceExhausted
      QualityRejection                       a result, not a bug
      ApprovalAwaited                        a person who has to look
      ApprovalRefused                        a result, not a bug
      OutputRecalled                         whoever asks for it
      StorageExhausted                       operator: room on disk
      DatabaseUnavailable                    by itself: locked, or operator: gone
      PublicationError                       us, must be retried
      AttestationError                       us, must be retried
      VerificationFailed                     whoever holds the object
      ReplayImpossible                       whoever keeps the inputs
      JobError                               us
        LeaseLost
        AttemptsExhausted
        JobNotFound
        JobNotHeld

Each class carries its code (never reused), its retry policy and its form on every wire, so one failure reads the same in a
DIMSE status, an OperationOutcome, an exit code and `veraicon job list`. The sentences never hold patient data.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar


class Retry(Enum):
    """Who may try again, and when."""

    BY_ITSELF = "by itself, with back-off"
    BY_HAND = "by hand, after the cause is mended"
    NEVER = "never: a new request is needed"


class VeraiconError(Exception):
    """Base of the tree.

    Parameters
    ----------
    found : str
        What was found.
    allowed : str
        What would have been accepted.
    action : str
        What to do next.

    Attributes
    ----------
    code : str
        Stable code such as ``VI-2003``.
    retry : Retry
        Retry policy.
    dimse_status : int
        Status of a DIMSE response (PS3.4 B.2.3, PS3.7 C).
    issue_type : str
        ``OperationOutcome.issue.code`` (FHIR value set issue-type).
    http_status : int
        Status of an HTTP response.
    exit_code : int
        Exit code of the command line.
    """

    code: ClassVar[str] = "VI-0000"
    retry: ClassVar[Retry] = Retry.BY_HAND
    dimse_status: ClassVar[int] = 0xC000
    issue_type: ClassVar[str] = "exception"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70

    def __init__(self, found: str, *, allowed: str, action: str) -> None:
        self.found, self.allowed, self.action = found, allowed, action
        super().__init__(found, allowed, action)

    def __str__(self) -> str:
        return f"{self.code} {type(self).__name__}: found {self.found}; allowed: {self.allowed}; next: {self.action}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.found, self.allowed, self.action)


def _rebuild(kind: type[VeraiconError], found: str, allowed: str, action: str) -> VeraiconError:
    return kind(found, allowed=allowed, action=action)


class ConfigurationError(VeraiconError):
    """The settings, the installation or a key cannot be used."""

    code, retry, exit_code = "VI-1001", Retry.BY_HAND, 78
    issue_type, http_status, dimse_status = "exception", 500, 0xC001


class PeerError(VeraiconError):
    """A PACS or FHIR server did not do its part."""

    code, retry, exit_code = "VI-1100", Retry.BY_ITSELF, 69
    issue_type, http_status, dimse_status = "transient", 502, 0xC110


class PeerUnreachable(PeerError):
    """No connection, or no answer in time."""

    code, issue_type, http_status = "VI-1101", "no-store", 503


class PeerRefused(PeerError):
    """The peer answered, and said no."""

    code, retry, issue_type, http_status = "VI-1102", Retry.BY_HAND, "processing", 502


class VersionChanged(PeerRefused):
    """Somebody else changed a resource since it was read."""

    code, retry, issue_type, http_status = "VI-1104", Retry.BY_ITSELF, "conflict", 412


class PeerAnswerInvalid(PeerError):
    """The peer answered something that its protocol does not allow."""

    code, retry, issue_type, http_status = "VI-1103", Retry.BY_HAND, "invalid", 502


class InputError(VeraiconError):
    """What was sent to us cannot be used as it is."""

    code, exit_code = "VI-2000", 65
    issue_type, http_status, dimse_status = "invalid", 422, 0xC210


class UnreadableInstance(InputError):
    """An instance or its header cannot be parsed."""

    code, issue_type, http_status, dimse_status = "VI-2001", "structure", 400, 0xC000


class InstanceMismatch(UnreadableInstance):
    """The command, or the file meta information, names another class or instance than the dataset."""

    code, dimse_status = "VI-2013", 0xA900


class UnsupportedSeries(InputError):
    """A series that no configured model can use: modality, spacing, field of view, geometry."""

    code, issue_type, dimse_status = "VI-2002", "not-supported", 0xA900


class IncompleteSeries(InputError):
    """Slices are missing, doubled or not evenly spaced."""

    code, issue_type = "VI-2003", "incomplete"


class PatientMismatch(InputError):
    """Imaging and clinical context are not shown to be one patient."""

    code, issue_type, http_status = "VI-2004", "conflict", 409


class ConsentMissing(InputError):
    """Consent or a security label forbids the use."""

    code, issue_type, http_status, exit_code = "VI-2005", "forbidden", 403, 77


class RequestInvalid(InputError):
    """A request asks for something that the model or the server does not offer."""

    code, issue_type, http_status = "VI-2006", "value", 422


class AnswerUnacceptable(RequestInvalid):
    """A caller accepts none of the forms in which a resource can be given."""

    code, issue_type, http_status = "VI-2010", "not-supported", 406


class BodyTooLarge(RequestInvalid):
    """A body, or a part of it, is longer than this server takes."""

    code, issue_type, http_status = "VI-2011", "too-long", 413


class BodyUnsupported(RequestInvalid):
    """A body has a media type that this server does not take."""

    code, issue_type, http_status = "VI-2012", "not-supported", 415


class SignatureRefused(InputError):
    """A call whose signature is missing, wrong or too old."""

    code, retry, issue_type, http_status, exit_code = "VI-2014", Retry.NEVER, "login", 401, 77


class OrderConflict(RequestInvalid):
    """An order has the reference of another one, which is being worked on."""

    code, retry, issue_type, http_status = "VI-2015", Retry.NEVER, "conflict", 409


class ResourceNotFound(InputError):
    """A resource that our own store does not hold."""

    code, retry, issue_type, http_status = "VI-2007", Retry.NEVER, "not-found", 404


class CallerUnknown(InputError):
    """A caller shows no token, or none that holds."""

    code, issue_type, http_status, exit_code = "VI-2020", "login", 401, 77


class ScopeMissing(InputError):
    """A caller is known, and its token does not allow what it asks for."""

    code, issue_type, http_status, exit_code = "VI-2021", "forbidden", 403, 77


class GenerationError(VeraiconError):
    """The generator did not produce a volume."""

    code, issue_type, http_status = "VI-3000", "exception", 500


class WeightsRejected(GenerationError):
    """Weights, card or digest do not agree."""

    code, exit_code = "VI-3001", 78


class NonFiniteOutput(GenerationError):
    """The generator returned NaN or infinity."""

    code = "VI-3002"


class DeviceExhausted(GenerationError):
    """Not enough memory on the device."""

    code, retry = "VI-3003", Retry.BY_ITSELF


class QualityRejection(VeraiconError):
    """A quality check failed, so the volume is not published."""

    code, retry, exit_code = "VI-4001", Retry.NEVER, 3
    issue_type, http_status = "business-rule", 422


class ApprovalAwaited(VeraiconError):
    """A volume passed its checks, and the site wants a person to see it before it leaves."""

    code, retry, exit_code = "VI-4002", Retry.BY_HAND, 3
    issue_type, http_status = "suppressed", 409


class ApprovalRefused(VeraiconError):
    """A person looked at a volume and did not approve it."""

    code, retry, exit_code = "VI-4003", Retry.NEVER, 3
    issue_type, http_status = "business-rule", 422


class OutputRecalled(VeraiconError):
    """An output that was taken back: nothing more of it leaves."""

    code, retry, exit_code = "VI-4010", Retry.NEVER, 3
    issue_type, http_status = "business-rule", 410


class StorageExhausted(VeraiconError):
    """Too little room on disk to keep what is sent."""

    code, retry, exit_code = "VI-5000", Retry.BY_ITSELF, 74
    issue_type, http_status, dimse_status = "no-store", 507, 0xA700


class DatabaseUnavailable(VeraiconError):
    """The site's own database is locked, gone or full; nothing that was sent is lost on the sender's side."""

    code, retry, exit_code = "VI-5005", Retry.BY_ITSELF, 75
    issue_type, http_status, dimse_status = "transient", 503, 0xA700


class PublicationError(VeraiconError):
    """A destination did not take the whole series."""

    code, retry, exit_code = "VI-5001", Retry.BY_ITSELF, 69
    issue_type, http_status = "transient", 502


class AttestationError(VeraiconError):
    """The series is published and its attestation is not: must be retried."""

    code, retry, exit_code = "VI-5002", Retry.BY_ITSELF, 69
    issue_type, http_status = "transient", 502


class VerificationFailed(VeraiconError):
    """A claim about a published object is not true."""

    code, retry, exit_code = "VI-5003", Retry.NEVER, 1
    issue_type, http_status = "invariant", 422


class ReplayImpossible(VeraiconError):
    """What an attestation names is not at hand: source series, EHR snapshot or weights."""

    code, retry, exit_code = "VI-5004", Retry.BY_HAND, 66
    issue_type, http_status = "not-found", 422


class JobError(VeraiconError):
    """The durable engine could not go on with a job."""

    code, exit_code = "VI-6000", 75
    issue_type, http_status = "exception", 500


class LeaseLost(JobError):
    """Another worker holds the job."""

    code, retry = "VI-6001", Retry.BY_ITSELF


class AttemptsExhausted(JobError):
    """All automatic attempts at a step failed."""

    code, retry = "VI-6002", Retry.BY_HAND


class JobNotFound(JobError):
    """No job has this id."""

    code, exit_code, issue_type, http_status = "VI-6003", 66, "not-found", 404


class JobNotHeld(JobError):
    """A decision about a job that does not wait for one."""

    code, retry, exit_code, issue_type, http_status = "VI-6004", Retry.NEVER, 65, "conflict", 409
