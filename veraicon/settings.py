"""Settings: a TOML file, then the environment (``VERAICON_SECTION__FIELD``); unknown keys are refused.

The commented example file is made from the fields below (`example_toml`) and tested, so it cannot drift.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from domain.errors import ConfigurationError

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


class Settings(BaseSettings):
    """All sections; frozen, unknown keys refused."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="VERAICON_", env_nested_delimiter="__")

    storage: StorageSettings = StorageSettings()
    node: NodeSettings = NodeSettings()
    http: HttpSettings = HttpSettings()
    fhir: FhirSettings = FhirSettings()
    pairing: PairingSettings = PairingSettings()
    generation: GenerationSettings = GenerationSettings()
    worker: WorkerSettings = WorkerSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    sources: tuple[SourceSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment stands above the file; nothing else is read."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        for kind, peers in (("sources", self.sources), ("destinations", self.destinations)):
            names = [peer.name for peer in peers]
            if len(set(names)) < len(names):
                raise ValueError(f"{kind}: two peers have one name")
        return self

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Settings:
        if self.http.host not in LOOPBACK and not self.http.token.get_secret_value():
            raise ValueError("http.token is needed where http.host is not a loopback address")
        return self

    @property
    def database_url(self) -> str:
        """The configured URL, or SQLite inside the folder."""
        return self.storage.database_url or f"sqlite:///{self.storage.folder.absolute() / 'veraicon.sqlite'}"


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Read settings from a TOML file and the environment.

    Parameters
    ----------
    path : Path or None
        TOML file; None reads ``veraicon.toml`` in the working folder where it exists.
    overrides : dict
        Sections given by the caller; they stand above the file and below the environment.

    Raises
    ------
    ConfigurationError
        If the file cannot be read, or a key or value is not allowed; it names the key.
    """
    content = _read_toml(path)
    for section, values in overrides.items():
        content[section] = {**content.get(section, {}), **values} if isinstance(values, dict) else values
    _refuse_unknown_environment(os.environ)
    try:
        return Settings(**content)
    except ValidationError as error:
        raise _configuration_error(error) from error


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        path = Path("veraicon.toml")
        if not path.exists():
            return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            found=f"settings file {path.name} that cannot be read ({type(error).__name__}: {error})",
            allowed="a TOML file as `veraicon config example` prints",
            action="correct the file",
        ) from error


def _refuse_unknown_environment(environment: Mapping[str, str]) -> None:
    for name in environment:
        section = name.removeprefix("VERAICON_").split("__")[0].lower()
        if name.startswith("VERAICON_") and "__" in name and section not in Settings.model_fields:
            raise ConfigurationError(
                found=f"environment variable {name} of no known section",
                allowed=", ".join(Settings.model_fields),
                action="correct or unset the variable",
            )


def _configuration_error(error: ValidationError) -> ConfigurationError:
    """Name each key and rule, never the value: it may be a secret."""
    problems, allowed = [], []
    for item in error.errors(include_input=False, include_url=False):
        key = ".".join(str(part) for part in item["loc"]) or "settings"
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {key}")
            allowed.append(f"in [{key.rpartition('.')[0] or 'the file'}]: {', '.join(_known_keys(item['loc']))}")
        else:
            problems.append(f"{key}: {item['msg']}")
    return ConfigurationError(
        found="; ".join(problems),
        allowed="; ".join(allowed) or "values as `veraicon config example` describes",
        action="correct the settings file or the environment, then start again",
    )


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    if len(location) == 1:
        return list(Settings.model_fields)
    return list(_section_of(Settings.model_fields[str(location[0])]).model_fields)


def _section_of(field: FieldInfo) -> type[BaseModel]:
    kind: Any = field.annotation
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    section: type[BaseModel] = kind
    return section


def example_toml() -> str:
    """Return a settings file with every key, its default and its meaning, all commented out."""
    lines = ["# Veraicon settings. Every value below is the default. Environment: VERAICON_SECTION__KEY."]
    for name, field in Settings.model_fields.items():
        section, repeated = _section_of(field), get_origin(field.annotation) is tuple
        lines += ["", f"# {(section.__doc__ or '').strip()}", f"# [[{name}]]" if repeated else f"[{name}]"]
        for key, value in section.model_fields.items():
            lines.append(f"# {key} = {_toml_value(value)}  # {value.description}")
    return "\n".join(lines) + "\n"


def _toml_value(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True, validated_data={})
    if field.is_required() or default is None:
        return '""'
    if isinstance(default, SecretStr):
        return '""'
    if isinstance(default, dict):
        return "{}"
    return json.dumps(str(default) if isinstance(default, Path) else default)
