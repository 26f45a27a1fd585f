"""Where orders and their jobs stand now, as others may know it: no patient data, no clinical value."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from domain.identifiers import derive_uuid
from domain.ordering import JobNews, OrderState
from fhir_adapter.ordering.tasks import Progress
from provenance.as_fhir import published_references
from veraicon.jobs import Jobs, request_of
from veraicon.orders.book import OrderBook
from veraicon.pipeline import JobState
from veraicon.recall.outputs import Outputs, aware
from veraicon.tables import JobRow

_TOLD_OF_ERROR = ("code", "found", "allowed", "next")


@dataclass(frozen=True)
class OrderStanding:
    """Reads what stands in the books of orders, jobs and outputs."""

    book: OrderBook
    jobs: Jobs
    outputs: Outputs

    def progress(self, order_id: str) -> Progress:
        """Return where an order stands.

        Raises
        ------
        ResourceNotFound
            If the book has none of this id.
        """
        row = self.book.row(order_id)
        jobs = tuple(self.job_news(job) for job in self.jobs.of_order(order_id) if not self.drawn_again(job))
        error = {name: str(value) for name, value in (row.error or {}).items() if name in _TOLD_OF_ERROR}
        return Progress(OrderState(row.state), jobs, row.reason, error, datetime.now(UTC))

    def job_news(self, job: JobRow) -> JobNews:
        """Return a job as others may know it."""
        output = self.outputs.row(job.request_id)
        attested = job.state == JobState.ATTESTED.value
        study, documents = published_references(job.request_id) if attested else ("", ())
        series = self.outputs.series(job.request_id) if attested else {}
        error = {name: str(value) for name, value in (job.error or {}).items() if name in _TOLD_OF_ERROR}
        return JobNews(
            request_id=job.request_id,
            state=job.state,
            model=request_of(job).model,
            updated_at=aware(job.updated_at),
            source_study_uid=output.source_study_uid if output else "",
            source_series_uid=job.series_uid,
            study_uid=output.study_uid if output and attested else "",
            series_uid=job.generated_series_uid if attested else "",
            instances=len(series.get(job.generated_series_uid, ())),
            provenance_reference=job.provenance_reference if attested else "",
            study_reference=study,
            document_references=documents,
            error=tuple(error.items()),
        )

    def drawn_again(self, job: JobRow) -> bool:
        """Return whether a rejected draw was followed by another one: it is not the end of anything then."""
        return job.state == JobState.REJECTED.value and self.jobs.has(str(derive_uuid(job.request_id, "redraw")))
