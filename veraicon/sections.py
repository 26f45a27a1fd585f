"""The sections of the settings: every key with its default and its meaning, which the example file repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

# PS3.5 6.2, AE: 16 characters of the default repertoire without backslash, not only spaces.
AeTitle = Annotated[str, Field(max_length=16, pattern=r"^[!-\[\]-~]([ -\[\]-~]*[!-\[\]-~])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
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
    port: Port = Field(11112, description="DICOM port")
    settle_s: float = Field(5.0, gt=0, description="a series is complete after this many quiet seconds")
    maximum_associations: int = Field(32, ge=1, le=512, description="at once")


class HttpSettings(_Section):
    """Our HTTP face: health, jobs, keys, FHIR."""

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a token is required")
    port: Port = Field(8080, description="HTTP port")
    token: SecretStr = Field(SecretStr(""), description="bearer token that callers must send; empty: loopback only")


class FhirSettings(_Section):
    """The EHR. Empty base_url: our own FHIR store, filled over HTTP at /fhir."""

    base_url: str = Field("", description="R4 base URL such as https://ehr.example/fhir")
    token: SecretStr = Field(SecretStr(""), description="bearer token for it")
    timeout_s: float = Field(30.0, gt=0, description="per request")


class SourceSettings(_Section):
    """A peer that may push series to us. None configured: anyone who calls our AE title."""

    name: str = Field(description="how we call it")
    ae_title: AeTitle = Field(description="its calling AE title")
    host: str = Field("", description="its address; empty: any")


class DestinationSettings(_Section):
    """A PACS that gets what we publish. None configured: our own archive keeps it, to be queried and fetched there."""

    name: str = Field(description="how we call it")
    ae_title: AeTitle = Field(description="its AE title")
    host: str = Field(description="its address")
    port: Port = Field(description="its port")
    timeout_s: float = Field(30.0, gt=0, description="for each answer")


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
    guidance: float = Field(1.0, ge=1, le=10, description="weight of guidance; 1 is what the packaged card advises")
    redraws: int = Field(
        3, ge=0, le=20, description="new requests with another seed after a rejected volume; each rejection stays listed"
    )
    sampler_steps: int = Field(8, ge=1, le=200, description="denoising steps")
    device: str = Field("cpu", description="cpu or cuda")
    threads: int = Field(2, ge=1, le=256, description="CPU threads of the generator; part of what decides the last bits")


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
    issuer: str = Field("VERAICON-SYNTHETIC", description="issuer of our synthetic patients' ids")
