"""The sections of the settings: every key with its default and its meaning, which the example file repeats."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal, get_args
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from domain.generation import Guidance, Modality

# PS3.5 6.2, AE: 16 characters of the default repertoire without backslash, not only spaces.
AeTitle = Annotated[str, Field(max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
_MOST_GUIDANCE = 10
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StorageSettings(_Section):
    """Where everything is kept."""

    folder: Path = Field(Path("veraicon-data"), description="archive, job results, keys; all workers of one site share it")
    database_url: str = Field("", description="SQLAlchemy URL (postgresql+psycopg://...); empty: SQLite inside the folder")
    min_free_mib: int = Field(512, ge=1, description="C-STORE answers 0xA700 when less room than this is left")


class NodeSettings(_Section):
    """Our DICOM node."""

    ae_title: AeTitle = Field("VERAICON", description="called AE title; others are rejected")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for all")
    port: int = Field(11112, ge=0, le=65535, description="DICOM port; 0: none, TLS only")
    tls_port: int = Field(0, ge=0, le=65535, description="port for DICOM over TLS, 2762 by custom; 0: none")
    tls_certificate: str = Field("", description="our certificate (PEM, its chain may follow), to callers and to peers")
    tls_key: str = Field("", description="its key (PEM, not encrypted)")
    tls_client_ca: str = Field("", description="authorities (PEM) of callers' certificates; empty: callers need none")
    settle_s: float = Field(5.0, gt=0, description="a series is complete after this many quiet seconds")
    # Half of the sockets that select(2) can watch: as many connections again may be on their way to an association.
    maximum_associations: int = Field(32, ge=1, le=256, description="at once")
    maximum_pdu: int = Field(131072, ge=4096, le=2**22, description="longest PDU with data that we take, bytes")
    maximum_message_mib: int = Field(8, ge=1, description="messages of an association in memory; C-STORE goes to disk")
    unknown_storage_classes: bool = Field(True, description="take storage classes that DICOM does not name, private ones too")
    artim_timeout_s: float = Field(10.0, gt=0, description="from a connection to its association request, and for TLS")
    dimse_timeout_s: float = Field(30.0, gt=0, description="for an answer that we wait for")
    pdu_timeout_s: float = Field(30.0, gt=0, description="from the first byte of a PDU to its last")
    idle_timeout_s: float = Field(60.0, gt=0, description="an association without traffic is aborted after this long")

    @model_validator(mode="after")
    def _listens(self) -> NodeSettings:
        if not self.port and not self.tls_port:
            raise ValueError("port and tls_port are both 0: the node would not listen")
        if self.port == self.tls_port:
            raise ValueError("port and tls_port are the same")
        if self.tls_port and not (self.tls_certificate and self.tls_key):
            raise ValueError("tls_port needs tls_certificate and tls_key")
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key belong together")
        return self


class HttpSettings(_Section):
    """Our HTTP face: health, jobs, keys, FHIR, DICOMweb."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a token is required")
    port: Port = Field(8080, description="HTTP port")
    token: SecretStr = Field(SecretStr(""), description="bearer token that callers must send; empty: loopback only")
    max_instance_mib: int = Field(1024, ge=1, le=4095, description="longest instance that DICOMweb takes (STOW-RS)")
    issuer: str = Field("", description="authorization server whose JWTs callers may send (claim iss); empty: none")
    audience: str = Field("", description="what its tokens for us name as aud, such as https://veraicon.example/fhir")
    jwks_url: str = Field("", pattern=r"^(https?://[^\s@]+)?$", description="its public keys (JWKS)")
    jwks_file: str = Field("", description="or a file that holds them")
    algorithms: tuple[Literal["ES384", "RS384", "ES256", "RS256"], ...] = Field(
        ("ES384", "RS384"), min_length=1, description="of its signatures: ES384, RS384, ES256, RS256"
    )
    leeway_s: float = Field(30.0, ge=0, le=300, description="by which its clock and ours may differ")

    @model_validator(mode="after")
    def _issuer_has_keys(self) -> HttpSettings:
        if self.issuer and not self.audience:
            raise ValueError("issuer needs audience: without it a token for another service would open ours")
        if self.issuer and bool(self.jwks_url) == bool(self.jwks_file):
            raise ValueError("issuer needs one of jwks_url and jwks_file")
        if (self.audience or self.jwks_url or self.jwks_file) and not self.issuer:
            raise ValueError("audience, jwks_url and jwks_file need issuer")
        return self


class FhirSettings(_Section):
    """The EHR. Empty base_url: our own FHIR store, filled over HTTP at /fhir."""

    base_url: str = Field("", description="R4 base URL such as https://ehr.example/fhir")
    token: SecretStr = Field(SecretStr(""), description="bearer token for it; or client_id and client_key_file")
    client_id: str = Field("", description="our id at its authorization server (SMART Backend Services); empty: token or none")
    client_key_file: str = Field("", description="its private key, P-384 or RSA (PEM or JWK); see `veraicon keys client`")
    client_key_id: str = Field("", description="its key id; empty: that of the JWK, else its RFC 7638 thumbprint")
    token_endpoint: str = Field("", description="where tokens are given; empty: as the server's smart-configuration says")
    scopes: tuple[str, ...] = Field(
        (
            "system/*.rs",
            "system/Device.u",
            "system/DocumentReference.u",
            "system/Endpoint.u",
            "system/ImagingStudy.u",
            "system/Patient.u",
            "system/Provenance.u",
            "system/Task.u",
        ),
        description="scopes to ask for, as SMART v2 writes them; subscriptions and creates need more (docs/fhir.md)",
    )
    ca: str = Field("", description="authorities (PEM) of its certificate; empty: the system's")
    client_certificate: str = Field("", description="our certificate (PEM), where it asks for one (mTLS)")
    client_certificate_key: str = Field("", description="its key (PEM, not encrypted)")
    timeout_s: float = Field(30.0, gt=0, description="per request")
    resource_types: tuple[str, ...] = Field(
        (), description="types that are read for facts; none: what the server's CapabilityStatement offers"
    )
    consent_elsewhere: bool = Field(
        False, description="use data of a server that does not offer Consent: the site answers for consent by other means"
    )

    @model_validator(mode="after")
    def _one_identity(self) -> FhirSettings:
        if self.client_id and self.token.get_secret_value():
            raise ValueError("token and client_id are both given: one of them")
        if bool(self.client_id) != bool(self.client_key_file):
            raise ValueError("client_id and client_key_file belong together")
        if bool(self.client_certificate) != bool(self.client_certificate_key):
            raise ValueError("client_certificate and client_certificate_key belong together")
        return self


class SubscriptionSettings(_Section):
    """What of the FHIR server is watched for orders; docs/subscriptions.md says what to switch on there."""

    criteria: tuple[str, ...] = Field(
        ("Task?code=https://veraicon.dev/fhir/CodeSystem/task|generate",),
        description="searches that find orders: Tasks for us, and what the rules cover (ServiceRequest?status=active)",
    )
    way: Literal["poll", "rest-hook", "topic"] = Field(
        "poll", description="poll: ask only; rest-hook: the server calls us too; topic: by the Subscriptions Backport"
    )
    hook_url: str = Field("", description="our HTTP address as the server reaches it, such as https://veraicon.example")
    payload: bool = Field(False, description="rest-hook with the resource in it; false: an empty call, which tells nothing")
    topic: str = Field("", description="canonical URL of the topic, for way topic")
    topic_filters: tuple[str, ...] = Field((), description="filters of the topic subscription, such as Task?status=requested")
    heartbeat_s: int = Field(60, ge=5, description="heartbeats that a topic subscription asks for")
    poll_s: float = Field(30.0, gt=0, description="between two polls; our own store is asked each second")
    overlap_s: float = Field(120.0, ge=0, description="how far a poll reaches back behind what it has seen")
    check_s: float = Field(300.0, gt=0, description="between two looks at our subscriptions on the server")
    days: int = Field(7, ge=1, description="after which a subscription ends, if we do not renew it before")

    @model_validator(mode="after")
    def _hooks_have_an_address(self) -> SubscriptionSettings:
        if self.way != "poll" and not self.hook_url.startswith(("http://", "https://")):
            raise ValueError("way rest-hook and topic need hook_url, the address at which the FHIR server reaches us")
        if self.way == "topic" and not self.topic:
            raise ValueError("way topic needs topic, its canonical URL")
        return self


class SourceSettings(_Section):
    """A peer that may push series to us. None configured: anyone who calls our AE title."""

    name: str = Field(description="how we call it")
    ae_title: AeTitle = Field(description="its calling AE title")
    host: str = Field("", description="its address, or network such as 10.0.0.0/24; empty: any")
    port: int = Field(0, ge=0, le=65535, description="its port, where we call it back; 0: it is never called")
    maximum_associations: int = Field(0, ge=0, description="of it at once; 0: as many as the node takes")
    tls: bool = Field(False, description="it calls, and is called, over TLS only")
    tls_ca: str = Field("", description="authorities (PEM) of its certificate when we call it; empty: the system's")
    tls_check_host: bool = Field(True, description="its certificate must name its host when we call it")

    @model_validator(mode="after")
    def _host_is_an_address(self) -> SourceSettings:
        try:
            hosts = ip_network(self.host).num_addresses if self.host else 0
        except ValueError as error:
            raise ValueError("host is neither an address nor a network (such as 10.0.0.0/24)") from error
        if self.port and hosts != 1:
            raise ValueError("a source with a port needs one address as its host")
        return self


class DestinationSettings(_Section):
    """A PACS that gets what we publish. None configured: our own archive keeps it, to be queried and fetched there."""

    name: str = Field(description="how we call it")
    ae_title: AeTitle = Field(description="its AE title")
    host: str = Field(description="its address")
    port: Port = Field(description="its port")
    timeout_s: float = Field(30.0, gt=0, description="for each answer")
    tls: bool = Field(False, description="call it over TLS")
    tls_ca: str = Field("", description="authorities (PEM) of its certificate; empty: the system's")
    tls_check_host: bool = Field(True, description="its certificate must name its host")
    commitment: Literal["required", "if-supported", "off"] = Field(
        "if-supported", description="ask it to commit to what we publish: required, if-supported or off"
    )
    commitment_timeout_s: float = Field(30.0, gt=0, description="until its commitment report has to be here")


class DicomWebSettings(_Section):
    """A PACS that speaks DICOMweb: it gets what we publish, and is asked and fetched from by `veraicon peer`."""

    name: str = Field(description="how we call it")
    url: str = Field(
        description="root of its DICOMweb service such as https://pacs.example/dicom-web", pattern=r"^https?://[^/]"
    )
    token: SecretStr = Field(SecretStr(""), description="bearer token for it; empty: none")
    timeout_s: float = Field(30.0, gt=0, description="for the connection, and for each wait for bytes")
    qido_prefix: str = Field("", description="path of its search service below url; empty: url itself")
    wado_prefix: str = Field("", description="path of its retrieve service below url; empty: url itself")
    stow_prefix: str = Field("", description="path of its store service below url; empty: url itself")
    publish: bool = Field(True, description="send it what we publish (STOW-RS)")


class PairingSettings(_Section):
    """How a Patient ID of DICOM becomes an identifier of FHIR."""

    patient_id_system: str = Field(
        "",
        description="FHIR system of Patient IDs that name no issuer; empty: value alone, and exactly one patient may carry it",
    )
    issuers: dict[str, str] = Field(
        default_factory=dict, description='issuer of (0010,0021) to FHIR system, {"HOSP" = "http://hospital.example/mrn"}'
    )
    timezone: str = Field("UTC", description="IANA zone of DICOM times without an offset")
    accession_system: str = Field(
        "", description="FHIR system of accession numbers; empty: they are no evidence, other hospitals have the same numbers"
    )
    accept: tuple[Literal["study-uid", "accession", "order"], ...] = Field(
        (), description="evidence that may pair where no patient carries the Patient ID; none: the Patient ID is needed"
    )

    @model_validator(mode="after")
    def _accession_has_a_system(self) -> PairingSettings:
        if "accession" in self.accept and not self.accession_system:
            raise ValueError("accept names accession and accession_system is empty: hospitals share accession numbers")
        return self

    @field_validator("timezone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        if name not in available_timezones():
            raise ValueError("no IANA time zone, such as Europe/Berlin")
        return name


class GenerationSettings(_Section):
    """What is made of each series that settles."""

    model: str = Field("hippocampus-t1", description="name of a packaged model, or a folder with weights and card")
    on_receive: bool = Field(True, description="make one request for each series that settles")
    samples: int = Field(1, ge=1, le=1000, description="requests for each series, each with a seed of its own")
    max_samples: int = Field(100, ge=1, le=1000, description="most volumes of each series that an order may ask for")
    guidance: Guidance = Field(
        1.0,
        description="weight of guidance; 1 is what the packaged card advises. Or of single modalities: { prior-image = 2.0 }",
    )
    redraws: int = Field(
        3, ge=0, le=20, description="new requests with another seed after a rejected volume; each rejection stays listed"
    )
    sampler_steps: int = Field(0, ge=0, le=1000, description="denoising steps; 0: as many as the model's card advises")
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:[0-9]{1,2})?)$", description="cpu or cuda (cuda:1 for another card)")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of the generator; part of what decides the last bits")
    sentence_encoder: str = Field(
        "", description="folder of the transformer that embeds texts; empty: the packaged one, which packaged models know"
    )

    @field_validator("guidance")
    @classmethod
    def _weights_known(cls, guidance: Guidance) -> Guidance:
        weights = guidance if isinstance(guidance, Mapping) else {get_args(Modality)[0]: guidance}
        if not set(weights) <= set(get_args(Modality)) or not all(1 <= one <= _MOST_GUIDANCE for one in weights.values()):
            raise ValueError(f"1 to {_MOST_GUIDANCE}, for all or for each of {', '.join(get_args(Modality))}")
        return guidance


class RuleSettings(_Section):
    """What is done with orders from outside: the first rule that covers an order decides. See `veraicon rules test`."""

    name: str = Field(description="how it is called in lists and reasons", min_length=1, max_length=64)
    origin: Literal["", "fhir", "fhir-operation", "hl7v2", "webhook"] = Field("", description="how the order came; empty: any")
    sender: str = Field("", description="who sent it; empty: any")
    kind: str = Field("", description="ServiceRequest, Task, ImagingStudy, ORM^O01, OMI^O23, webhook, $generate; empty: any")
    code: str = Field("", description="a code that was ordered, as system|code or code; empty: any")
    modality: str = Field("", description="modality that was ordered, such as MR; empty: any")
    action: Literal["generate", "ignore"] = Field("generate", description="generate or ignore")
    model: str = Field("", description="by which model, where the order names none; empty: [generation] model")
    samples: int = Field(0, ge=0, le=1000, description="volumes of each series, where the order says none; 0: as [generation]")
    max_samples: int = Field(0, ge=0, le=1000, description="most volumes of each series that an order gets; 0: as [generation]")
    ask: dict[str, str] = Field(
        default_factory=dict, description='values to ask for where the order asks none, {"hippocampus-volume" = "3.1 cm3"}'
    )
    fetch: str = Field("", description="peer to fetch images from that are not here; empty: they come by themselves")
    priors: bool = Field(False, description="fetch the patient's earlier studies too")
    wait_s: float = Field(604800.0, gt=0, description="how long an order waits for its images before it is refused")
    fit_wait_s: float = Field(
        1800.0, ge=0, description="how long after the last image one that fits the model may still come: localizers come first"
    )
    tell: tuple[str, ...] = Field(
        (), description='channels that are told, such as ["fhir-task", "webhook:ris"]; empty: every one that takes such news'
    )


class PublicationSettings(_Section):
    """What is published of each volume, beside its Provenance."""

    approval: Literal["automatic", "person"] = Field(
        "automatic",
        description="automatic: what passes every check is published; person: it waits for `veraicon job approve`",
    )

    image: Literal["classic", "enhanced"] = Field(
        "classic", description="classic: one instance a slice, which each PACS takes; enhanced: one multi-frame instance"
    )
    segmentation: bool = Field(True, description="publish the label map as a Segmentation, where the model makes one")
    summary: Literal["none", "pdf", "sr"] = Field(
        "none", description="a summary for people: pdf (encapsulated) or sr (structured report)"
    )
    visible_mark: Literal["none", "overlay", "burned-in"] = Field(
        "none", description="SYNTHETIC over the images (overlay: classic only) or in their pixels (burned-in)"
    )
    watermark: bool = Field(False, description="a keyed watermark in the voxels; see docs/marks.md for its measured cost")
    wado_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/@?#]+(/[^\s?#]*)?)?$",
        description="DICOMweb address where others fetch what was published, for a FHIR Endpoint; empty: no Endpoint",
    )

    @model_validator(mode="after")
    def _overlay_is_classic(self) -> PublicationSettings:
        if self.visible_mark == "overlay" and self.image == "enhanced":
            raise ValueError("visible_mark overlay needs image classic: enhanced images have no overlay plane; burned-in works")
        return self


class WorkerSettings(_Section):
    """The durable engine."""

    embedded: bool = Field(True, description="serve starts one worker process itself")
    concurrency: int = Field(1, ge=1, le=64, description="jobs at once in one worker")
    attempts: int = Field(6, ge=1, le=50, description="tries of a step whose error may pass by itself")
    first_delay_s: float = Field(1.0, gt=0, description="before the second try; doubles each time")


class ProvenanceSettings(_Section):
    """Who signs."""

    organization: str = Field("Veraicon site", description="custodian named in each Provenance")
    key_file: str = Field("", description="ES384 private key (JWK or PEM); empty: made once in the storage folder")
    key: SecretStr = Field(SecretStr(""), description="the private key itself, for the environment; not beside key_file")
    issuer: str = Field("VERAICON-SYNTHETIC", description="issuer of our synthetic patients' ids")
    dicom_signature_certificate: str = Field(
        "", description="certificate (PEM) for a DICOM Digital Signature in each instance; empty: none"
    )
    dicom_signature_key: str = Field("", description="its RSA key of at least 3072 bits (PEM, not encrypted)")
    c2pa_certificate: str = Field("", description="certificate chain (PEM) for C2PA manifests in PNG previews; empty: none")
    c2pa_key: str = Field("", description="its key (PEM, PKCS #8, not encrypted)")

    @model_validator(mode="after")
    def _certificates_have_keys(self) -> ProvenanceSettings:
        if bool(self.dicom_signature_certificate) != bool(self.dicom_signature_key):
            raise ValueError("dicom_signature_certificate and dicom_signature_key belong together")
        if bool(self.c2pa_certificate) != bool(self.c2pa_key):
            raise ValueError("c2pa_certificate and c2pa_key belong together")
        return self

    @model_validator(mode="after")
    def _one_key(self) -> ProvenanceSettings:
        if self.key_file and self.key.get_secret_value():
            raise ValueError("key_file and key are both given: one of them")
        return self
