"""Tells news to webhooks: signed JSON without patient data, sent again with the same id until the receiver has it."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import httpx

from domain.errors import ConfigurationError, PeerAnswerInvalid, PeerError, PeerRefused, PeerUnreachable
from domain.ordering import JobNews, News
from veraicon.sections_webhooks import WebhookSettings
from veraicon.signing_hooks import signature

# What may pass by itself: the receiver is busy, or something between us and it is.
_LATER = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_GONE = 410


@dataclass(frozen=True)
class WebhookChannel:
    """One receiver.

    References
    ----------
    Standard Webhooks specification: webhook-id, webhook-timestamp, webhook-signature.
    """

    settings: WebhookSettings

    @property
    def name(self) -> str:
        """Name of its own among channels."""
        return f"webhook:{self.settings.name}"

    def wants(self, news: News) -> bool:
        """Take what one of the patterns of the settings covers."""
        return any(fnmatchcase(news.kind, pattern) for pattern in self.settings.events)

    def send(self, news: News) -> None:
        """Post it; see `veraicon.orders.channels.Channel`."""
        self._post(news.news_id, payload(news, accession=self.settings.accession))

    def ping(self, identity: str) -> None:
        """Post a ``ping``, which asks the receiver for nothing but a 2xx answer."""
        self._post(identity, {"type": "ping", "timestamp": _now(), "data": {}})

    def _post(self, identity: str, content: dict[str, Any]) -> None:
        body = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
        now = int(time.time())
        secrets = [self.settings.secret, *self.settings.old_secrets]
        headers = {
            "Content-Type": "application/json",
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": " ".join(signature(one.get_secret_value(), identity, now, body) for one in secrets),
        }
        try:
            with (
                httpx.Client(timeout=self.settings.timeout_s, verify=self._trust(), follow_redirects=False) as client,
                client.stream("POST", self.settings.url, content=body, headers=headers) as response,
            ):
                _require_taken(response)
        except httpx.InvalidURL as error:
            raise ConfigurationError(
                found=f"webhook {self.settings.name} whose url is none",
                allowed="an http or https URL",
                action="correct url",
            ) from error
        except httpx.TransportError as error:
            raise PeerUnreachable(
                found=f"webhook {self.settings.name} that cannot be reached ({type(error).__name__})",
                allowed="an answer in time",
                action="check its address and that it runs; it is told again by itself",
            ) from error

    def _trust(self) -> ssl.SSLContext | bool:
        if not self.settings.url.startswith("https:"):
            return False
        try:
            return ssl.create_default_context(cafile=self.settings.tls_ca or None)
        except OSError as error:
            raise ConfigurationError(
                found=f"authorities of webhook {self.settings.name} that cannot be read ({type(error).__name__})",
                allowed="a PEM file", action="correct tls_ca",
            ) from error  # fmt: skip


def payload(news: News, *, accession: bool) -> dict[str, Any]:
    """Return what a receiver is told: see docs/fhir.md; no patient data, the accession number only where the site says so."""
    order = news.order
    told: dict[str, Any] = {"reason": news.reason or None, "jobs": [_job(job) for job in news.jobs]}
    if order is not None:
        state = news.order_state.value if news.order_state else None
        told["order"] = {
            "id": order.order_id, "state": state, "origin": order.origin.value, "kind": order.kind, "sender": order.sender,
        }  # fmt: skip
        if accession and order.accession:
            told["order"]["accession"] = order.accession
    return {"type": news.kind, "timestamp": news.at.isoformat(), "data": told}


def _job(job: JobNews) -> dict[str, Any]:
    return {
        "id": job.request_id,
        "state": job.state,
        "model": job.model,
        "updated_at": job.updated_at.isoformat(),
        "study_uid": job.study_uid or None,
        "series_uid": job.series_uid or None,
        "instances": job.instances,
        "provenance": job.provenance_reference or None,
        "imaging_study": job.study_reference or None,
        "documents": list(job.document_references),
        "error": dict(job.error) or None,
    }


def _require_taken(response: httpx.Response) -> None:
    if response.is_success:
        return
    status = response.status_code
    found = f"HTTP status {status} of a webhook"
    if status == _GONE:
        raise PeerRefused(
            found=found, allowed="2xx", action="the receiver says that it is gone: take it out of [[webhooks]], or mend it"
        )
    if response.is_redirect:
        raise PeerAnswerInvalid(found=found, allowed="2xx, no redirect", action="set url to where it is answered")
    kind = PeerError if status in _LATER else PeerRefused
    raise kind(found=found, allowed="2xx", action="see the receiver's log; `veraicon order tell` tells it again")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
