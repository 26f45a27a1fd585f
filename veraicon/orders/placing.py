"""From an order to requests: the rules of the site, applied to each order until its images are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa
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
from veraicon.failures import as_ours
from veraicon.jobs import Jobs, request_of
from veraicon.orders.book import OrderBook, order_of
from veraicon.orders.images import FittingSeries, find_images, names_images
from veraicon.orders.rules import Verdict, judge
from veraicon.orders.tables import OrderRow
from veraicon.pipeline import JobState
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
    fetch : callable
        Has the images of an order fetched from a peer by its name, and returns at once.
    ours : callable
        Returns those of some series that we published.
    card : callable
        Returns the card of the site's model.
    fitting : FittingSeries
        Tells which series the model can take.
    """

    book: OrderBook
    jobs: Jobs
    archive: Archive
    fhir: FhirStore
    rules: Sequence[RuleSettings]
    generation: GenerationSettings
    fetch: Callable[[str, OrderRow, Order, Verdict], None]
    ours: Callable[[Sequence[str]], set[str]]
    card: Callable[[], ModelCard]
    fitting: FittingSeries

    def place_due(self) -> int:
        """Look at every order that is due; return how many. One that breaks us is refused, and the others go on."""
        due = self.book.due(datetime.now(UTC))
        for row in due:
            try:
                self.place(row)
            except sa.exc.OperationalError:
                raise  # the database is away, and with it the means to note anything
            except Exception as caught:  # noqa: BLE001  # the edge: what nobody foresaw must not stop every other order
                self.book.refused(row, as_ours(caught))
                _log.error("order not understood", action="order", order_id=row.order_id, error=type(caught).__name__)
        return len(due)

    def place(self, row: OrderRow) -> None:
        """Do with one order what the site's rules say, and note what was done."""
        order = order_of(row)
        verdict = judge(order, self.rules, self.generation)
        if not verdict.generate:
            self.book.ignored(row, verdict.reason)
            _log.info("order ignored", action="order", order_id=row.order_id, rule=verdict.rule)
            return
        try:
            self._place(row, order, verdict)
        except PeerError as error:
            self._wait(row, verdict, "a PACS or FHIR server that it needs does not give what is asked of it", error)
        except (ResourceNotFound, IncompleteSeries) as error:
            self._wait(row, verdict, "its images are not at the peer, or not whole", error)
        except VeraiconError as error:
            self.book.refused(row, error, rule=verdict.rule)
            _log.warning("order refused", action="order", order_id=row.order_id, rule=verdict.rule, code=error.code)

    def cancel_revoked(self) -> int:
        """Cancel the jobs under way of orders that were taken back; return how many there were."""
        under_way = self.book.jobs_of_revoked([state.value for state in JobState if not state.ended])
        self._cancel(under_way)
        return len(under_way)

    def _cancel(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            with suppress(RequestInvalid):  # it has ended
                self.jobs.cancel(request_id)

    def _place(self, row: OrderRow, order: Order, verdict: Verdict) -> None:
        card = self._require_model(verdict)
        order = self._with_images(order)
        found = find_images(self.archive, order, self.ours)
        if not found.settled and not found.arriving and verdict.fetch:
            self.fetch(verdict.fetch, row, order, verdict)
            self._wait(row, verdict, f"its images are asked for at {verdict.fetch}", None)
            return
        if found.arriving or not found.settled:
            arriving = f"{found.arriving} of its series are still arriving"
            self._wait(row, verdict, arriving if found.arriving else "none of its images are here yet", None)
            return
        series = self.fitting.of(found.settled, card)
        if not series and found.quiet_s < verdict.fit_wait_s:
            self._wait(row, verdict, f"none of its {len(found.settled)} series fits {card.name}; more may come", None)
            return
        # Where nothing that fits has come in time, the jobs of what is there say by name why it does not fit.
        self._submit(row, order, verdict, series or found.settled)

    def _submit(self, row: OrderRow, order: Order, verdict: Verdict, series: Sequence[SeriesUid]) -> None:
        requests = [one for uid in series for one in self._requests(order, verdict, uid)]
        faults.reach("order:found")
        for request in requests:
            self.jobs.submit(request)
            faults.reach("order:submitting")
        faults.reach("order:submitted")
        ids = {request.request_id for request in requests}
        if self.book.requested(row, sorted(ids), rule=verdict.rule):
            _log.info("order requested", action="order", order_id=row.order_id, rule=verdict.rule, requests=len(requests))
            self._cancel_others(row.order_id, ids)

    def _cancel_others(self, order_id: str, wanted: AbstractSet[str]) -> None:
        """Cancel what was asked for an earlier version of an order; redraws of what is wanted go on."""
        jobs = self.jobs.of_order(order_id)
        self._cancel([job.request_id for job in jobs if job.request_id not in wanted and request_of(job).draw == 1])

    def _wait(self, row: OrderRow, verdict: Verdict, reason: str, error: VeraiconError | None) -> None:
        received = row.received_at if row.received_at.tzinfo else row.received_at.replace(tzinfo=UTC)
        waited_s = (datetime.now(UTC) - received).total_seconds()
        if waited_s > verdict.wait_s:
            late = error or IncompleteSeries(
                found=f"an order whose images did not come within {verdict.wait_s:g} s ({reason})",
                allowed="images in our archive, or at the peer that its rule fetches from",
                action="send the images, or mend the rule, then `veraicon order retry`",
            )
            self.book.refused(row, late, rule=verdict.rule)
            return
        pause_s = min(max(_FIRST_PAUSE_S, waited_s / 10), _LONGEST_PAUSE_S)
        self.book.waits(row, reason, rule=verdict.rule, pause_s=pause_s, error=error)

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
