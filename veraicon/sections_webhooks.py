"""The sections of webhooks: who is told by signed calls, and who may ask by them."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from veraicon.sections import _Section
from veraicon.signing_hooks import hook_key


def _require_secrets(*secrets: SecretStr) -> None:
    for secret in secrets:
        hook_key(secret.get_secret_value())


class WebhookSettings(_Section):
    """A receiver of what becomes of orders and jobs, as signed JSON (Standard Webhooks). See docs/fhir.md."""

    name: str = Field(description="how it is called in lists", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    url: str = Field(description="where it takes POST, such as https://engine.example/veraicon", pattern=r"^https?://[^/]")
    secret: SecretStr = Field(description="whsec_ and base64 of 24 to 64 bytes: `veraicon webhook secret` makes one")
    old_secrets: tuple[SecretStr, ...] = Field((), description="secrets that sign as well, while the receiver changes")
    events: tuple[str, ...] = Field(
        ("order.*", "job.*"), description='kinds of news as patterns, such as ["order.completed", "job.failed"]'
    )
    accession: bool = Field(False, description="tell the accession number of the order: it leads to a patient")
    timeout_s: float = Field(10.0, gt=0, le=120, description="for its answer")
    tls_ca: str = Field("", description="authorities (PEM) of its certificate; empty: the system's")

    @field_validator("url")
    @classmethod
    def _url_can_be_sent_to(cls, url: str) -> str:
        import httpx  # not before a site has webhooks: it costs each command time

        try:
            parsed, port = httpx.URL(url), urlsplit(url).port
        except (httpx.InvalidURL, ValueError) as error:
            raise ValueError("no URL") from error
        if not parsed.host or port == 0 or parsed.userinfo or parsed.fragment or any(one.isspace() for one in url):
            raise ValueError("no URL of the form https://host[:port]/path, without user and fragment")
        return url

    @model_validator(mode="after")
    def _secrets_are_keys(self) -> WebhookSettings:
        _require_secrets(self.secret, *self.old_secrets)
        return self


class WebhookSenderSettings(_Section):
    """Who may ask for volumes by a signed POST to /hooks/webhook/NAME. See docs/fhir.md."""

    name: str = Field(description="how it is called, in the path and as sender in rules", pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    secret: SecretStr = Field(description="whsec_ and base64 of 24 to 64 bytes: `veraicon webhook secret` makes one")
    old_secrets: tuple[SecretStr, ...] = Field((), description="secrets that are taken as well, while the sender changes")

    @model_validator(mode="after")
    def _secrets_are_keys(self) -> WebhookSenderSettings:
        _require_secrets(self.secret, *self.old_secrets)
        return self
