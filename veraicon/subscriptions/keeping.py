"""Keeps our Subscriptions on the FHIR server: writes them, looks at them, renews them, takes them away."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import structlog

from domain.errors import PeerRefused
from domain.identifiers import derive_fhir_id
from fhir_adapter.bundles import amendment_bundle, publication_bundle
from fhir_adapter.store import FhirStore
from fhir_adapter.subscribing.classic import needs_writing, rest_hook
from fhir_adapter.subscribing.polling import parse_criteria, with_revocations
from fhir_adapter.subscribing.topics import topic_subscription
from veraicon.artifacts import BYTES, ArtifactFolder
from veraicon.sections import SubscriptionSettings
from veraicon.subscriptions.tables import WatchRow
from veraicon.subscriptions.watches import Watches, watch_name

_log = structlog.get_logger()

HOOKS = "/hooks/fhir"
_LONGEST_ERROR = 200


def hook_token(folder: Path) -> str:
    """Return the bearer token that the FHIR server sends us; made once, and kept beside the site's other secrets."""
    path = folder / "keys" / "fhir-hook-token"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return ArtifactFolder(path.parent).once(path.name, BYTES, lambda: secrets.token_urlsafe(32).encode()).decode("ascii")


@dataclass(frozen=True)
class SubscriptionKeeper:
    """Looks after the Subscriptions of a site.

    Parameters
    ----------
    token : str
        Bearer token of our hooks; ids of Subscriptions derive from it too, so that two sites do not take each other's.
    """

    store: FhirStore
    watches: Watches
    settings: SubscriptionSettings
    token: str

    def keep(self, criteria: str) -> bool:
        """See that the Subscription of a watch stands; return whether the server says that it is active.

        Raises
        ------
        PeerUnreachable, PeerRefused, PeerAnswerInvalid
            If the server does not do its part.
        """
        now = datetime.now(UTC)
        wanted = self._wanted(criteria, now)
        held = self._held(wanted["id"])
        error = str((held or {}).get("error") or "")[:_LONGEST_ERROR]
        why = needs_writing(held, wanted, renew_before=now + timedelta(days=self.settings.days) / 2)
        if why:
            if held is None:  # the server counts the events of a new Subscription from 1, whatever we heard of an older one
                self.watches.follow(criteria, 0)
            self._write(held, wanted)
            _log.info("subscription written", action="subscribe", subscription=wanted["id"], why=why, error=error)
            held = self._held(wanted["id"])
        status = str((held or {}).get("status", "gone"))
        told = f"{status}: {error}" if error and status != "active" else status

        def note(row: WatchRow) -> None:
            row.subscription, row.subscription_status = f"Subscription/{wanted['id']}", told

        self.watches.change(criteria, note)
        return status == "active"

    def remove(self, criteria: str) -> bool:
        """Switch the Subscription of a watch off; return False where there is none."""
        held = self._held(self._identity(criteria))
        if held is None or held.get("status") == "off":
            return False
        self.store.transact(amendment_bundle([{**held, "status": "off"}], []))
        return True

    def _wanted(self, criteria: str, now: datetime) -> dict[str, Any]:
        settings, identity = self.settings, self._identity(criteria)
        endpoint = f"{settings.hook_url.rstrip('/')}{HOOKS}/{watch_name(criteria)}"
        end = now + timedelta(days=settings.days)
        if settings.way == "topic":
            filters = settings.topic_filters
            return topic_subscription(
                identity, settings.topic, filters, endpoint, self.token, end=end, heartbeat_s=settings.heartbeat_s
            )
        watched = with_revocations(parse_criteria(criteria)).text
        return rest_hook(identity, watched, endpoint, self.token, payload=settings.payload, end=end)

    def _identity(self, criteria: str) -> str:
        return derive_fhir_id(self.token, "Subscription", criteria)

    def _held(self, identity: str) -> Mapping[str, Any] | None:
        """Return the Subscription as the server has it, or None; by a search, since a read of nothing is an error."""
        found = next(iter(self.store.search("Subscription", {"_id": identity})), None)
        return None if found is None else found.body

    def _write(self, held: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
        if held is None:
            self.store.transact(publication_bundle([wanted]))
            return
        version = held.get("meta")
        kept = {"versionId": version["versionId"]} if isinstance(version, Mapping) and "versionId" in version else {}
        meta = {**wanted.get("meta", {}), **kept}
        try:
            self.store.transact(amendment_bundle([{**wanted, "meta": meta}], []))
        except PeerRefused:  # somebody changed it in this moment: the next look sees how it stands
            _log.info("subscription changed meanwhile", action="subscribe", subscription=wanted["id"])
