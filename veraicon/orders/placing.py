"""From an order to requests: the rules of the site, applied to each order until its images are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from dicom_node.archive import Archive
from domain.errors import IncompleteSeries, PeerError, RequestInvalid, ResourceNotFound, VeraiconError
from domain.generation import GenerationRequest
from domain.identifiers import SeriesUid, derive_uuid
from domain.model_card import ModelCard
from domain.ordering import Order
from fhir_adapter.ordering.reading import study_of_focus
from fhir_adapter.store import FhirStore
from veraicon import faults
from veraicon.jobs import Jobs
from veraicon.orders.book import OrderBook, order_of
from veraicon.orders.images import fetch_images, find_images, fitting_series, names_images
from veraicon.orders.rules import Verdict, judge
from veraicon.orders.tables import OrderRow
from veraicon.pipeline import JobState
from veraicon.pulls import Puller
from veraicon.sections import GenerationSettings, RuleSettings

_log = structlog.get_logger()

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 300.0


@dataclass(frozen=True)
class OrderPlacing:
    """Decides about one order at a time.

    Every step can be repeated: ids of requests derive from order, series and sample, so a crash between submitting and noting
    asks for nothing twice.

    Parameters
    ----------
    puller : callable
        Returns what fetches from a peer by its name.
    ours : callable
        Returns those of some series that we published.
    card : callable
        Returns the card of the site's model.
    """

    book: OrderBook
    jobs: Jobs
    archive: Archive
    fhir: FhirStore
    rules: Sequence[RuleSettings]
    generation: GenerationSettings
    puller: Callable[[str], Puller]
    ours: Callable[[Sequence[str]], set[str]]
    card: Callable[[], ModelCard]

    def place_due(self) -> int:
        """Look at every order that is due; return how many were looked at."""
        due = self.book.due(datetime.now(UTC))
        for row in due:
            self.place(row)
        return len(due)

    def place(self, row: OrderRow) -> None:
        """Do with one order what the site's rules say, and note what was done."""
        order = order_of(row)
        verdict = judge(order, self.rules, self.generation)
        if not verdict.generate:
            self.book.ignored(row.order_id, verdict.reason)
            _log.info("order ignored", action="order", order_id=row.order_id, rule=verdict.rule)
            return
        try:
            self._place(row, order, verdict)
        except PeerError as error:
            self._wait(row, verdict, "a PACS or FHIR server that it needs does not give what is asked of it", error)
        except (ResourceNotFound, IncompleteSeries) as error:
            self._wait(row, verdict, "its images are not at the peer, or not whole", error)
        except VeraiconError as error:
            self.book.refused(row.order_id, error, rule=verdict.rule)
            _log.warning("order refused", action="order", order_id=row.order_id, rule=verdict.rule, code=error.code)

    def cancel_revoked(self) -> int:
        """Cancel the jobs under way of orders that were taken back; return how many there were."""
        under_way = self.book.jobs_of_revoked([state.value for state in JobState if not state.ended])
        for request_id in under_way:
            with suppress(RequestInvalid):  # it has ended in this moment
                self.jobs.cancel(request_id)
        return len(under_way)

    def _place(self, row: OrderRow, order: Order, verdict: Verdict) -> None:
        card = self._require_model(verdict)
        order = self._with_images(order)
        found = find_images(self.archive, order, self.ours)
        if not found.settled and not found.arriving and verdict.fetch:
            fetch_images(self.puller(verdict.fetch), order, verdict)
            found = find_images(self.archive, order, self.ours)
        if found.arriving or not found.settled:
            reason = (
                f"{found.arriving} of its series are still arriving" if found.arriving else "none of its images are here yet"
            )
            self._wait(row, verdict, reason, None)
            return
        series = fitting_series(self.archive, found.settled, card)
        requests = [one for uid in series for one in self._requests(order, verdict, uid)]
        faults.reach("order:found")
        for request in requests:
            self.jobs.submit(request)
            faults.reach("order:submitting")
        faults.reach("order:submitted")
        self.book.requested(row.order_id, [request.request_id for request in requests], rule=verdict.rule)
        _log.info("order requested", action="order", order_id=row.order_id, rule=verdict.rule, requests=len(requests))

    def _wait(self, row: OrderRow, verdict: Verdict, reason: str, error: VeraiconError | None) -> None:
        received = row.received_at if row.received_at.tzinfo else row.received_at.replace(tzinfo=UTC)
        waited_s = (datetime.now(UTC) - received).total_seconds()
        if waited_s > verdict.wait_s:
            late = error or IncompleteSeries(
                found=f"an order whose images did not come within {verdict.wait_s:g} s ({reason})",
                allowed="images in our archive, or at the peer that its rule fetches from",
                action="send the images, or mend the rule, then `veraicon order retry`",
            )
            self.book.refused(row.order_id, late, rule=verdict.rule)
            return
        pause_s = min(max(_FIRST_PAUSE_S, waited_s / 10), _LONGEST_PAUSE_S)
        self.book.waits(row.order_id, reason, rule=verdict.rule, pause_s=pause_s, error=error)

    def _with_images(self, order: Order) -> Order:
        """Return an order with the study that its focus names on the FHIR server."""
        if names_images(order) or not order.focus:
            return order
        study_uid, accession = study_of_focus(self.fhir.read(order.focus))
        return replace(order, study_uid=study_uid, accession=accession)

    def _require_model(self, verdict: Verdict) -> ModelCard:
        """Return the card of the site's model, if it is the one that is meant: by its name, or as the settings call it."""
        card = self.card()
        if verdict.model not in (self.generation.model, card.name):
            raise RequestInvalid(
                found=f"an order for the model {verdict.model[:64]!r}",
                allowed=f"{card.name}, which this site runs",
                action="order this model, or run a site with the other one",
            )
        return card

    def _requests(self, order: Order, verdict: Verdict, series_uid: SeriesUid) -> list[GenerationRequest]:
        digest = self.archive.series_digest(series_uid)
        return [self._request(order, verdict, series_uid, digest, sample) for sample in range(verdict.samples)]

    def _request(self, order: Order, verdict: Verdict, series_uid: SeriesUid, digest: str, sample: int) -> GenerationRequest:
        identity = derive_uuid("order", order.order_id, series_uid, verdict.model, str(sample))
        return GenerationRequest(
            request_id=str(identity),
            series_uid=series_uid,
            series_digest=digest,
            model=self.generation.model,
            seed=identity.int % 2**31,
            guidance=self.generation.guidance,
            sampler_steps=self.generation.sampler_steps,
            requested_at=datetime.now(UTC),
            requested_by=f"{order.origin.value}:{order.sender}",
            asked=verdict.asked,
            order_id=order.order_id,
        )
