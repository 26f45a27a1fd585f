"""Settings: a TOML file, then the environment (``VERAICON_SECTION__FIELD``); unknown keys are refused.

The commented example file is made from the fields below (`example_toml`) and tested, so it cannot drift.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from domain.errors import ConfigurationError
from veraicon.sections import (
    LOOPBACK,
    DestinationSettings,
    DicomWebSettings,
    FhirSettings,
    GenerationSettings,
    HttpSettings,
    NodeSettings,
    PairingSettings,
    ProvenanceSettings,
    PublicationSettings,
    RuleSettings,
    SourceSettings,
    StorageSettings,
    SubscriptionSettings,
    WorkerSettings,
)
from veraicon.sections_hl7v2 import Hl7v2DestinationSettings, Hl7v2Settings
from veraicon.sections_webhooks import WebhookSenderSettings, WebhookSettings


class Settings(BaseSettings):
    """All sections; frozen, unknown keys refused."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix="VERAICON_", env_nested_delimiter="__")

    storage: StorageSettings = StorageSettings()
    node: NodeSettings = NodeSettings()
    http: HttpSettings = HttpSettings()
    fhir: FhirSettings = FhirSettings()
    subscriptions: SubscriptionSettings = SubscriptionSettings()
    hl7v2: Hl7v2Settings = Hl7v2Settings()
    pairing: PairingSettings = PairingSettings()
    generation: GenerationSettings = GenerationSettings()
    publication: PublicationSettings = PublicationSettings()
    worker: WorkerSettings = WorkerSettings()
    provenance: ProvenanceSettings = ProvenanceSettings()
    sources: tuple[SourceSettings, ...] = ()
    destinations: tuple[DestinationSettings, ...] = ()
    dicomweb: tuple[DicomWebSettings, ...] = ()
    rules: tuple[RuleSettings, ...] = ()
    webhooks: tuple[WebhookSettings, ...] = ()
    webhook_senders: tuple[WebhookSenderSettings, ...] = ()
    hl7v2_destinations: tuple[Hl7v2DestinationSettings, ...] = ()

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
        # A receipt names its destination, so no PACS of one kind may be called like one of the other. A source may be called
        # like the destination that it also is: see `veraicon.peers.named_remote`.
        hooks = [("webhooks", [one.name for one in self.webhooks])]
        hooks += [("webhook_senders", [one.name for one in self.webhook_senders])]
        takers = [peer.name for peer in self.destinations] + [peer.name for peer in self.dicomweb]
        engines = [peer.name for peer in self.hl7v2_destinations]
        sources = [peer.name for peer in self.sources]
        for kind, names in (("sources", sources), ("destinations", takers), ("hl7v2_destinations", engines)):
            if len(set(names)) < len(names):
                raise ValueError(f"{kind}: two peers have one name")
        return self

    @model_validator(mode="after")
    def _token_beyond_loopback(self) -> Settings:
        if self.http.host not in LOOPBACK and not (self.http.token.get_secret_value() or self.http.issuer):
            raise ValueError("http.token or http.issuer is needed where http.host is not a loopback address")
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
