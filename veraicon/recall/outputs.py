"""The book of what was made of which source, and of each place that a copy of it went to.

Both are written before anything leaves: a process that dies in between has written too much, never too little.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from dicom_node.holding.transactions import in_transaction
from domain.attestation import Attestation, ProvenanceStatement
from domain.errors import ConsentMissing, OutputRecalled
from domain.generation import Receipt
from domain.identifiers import PatientIdentifier
from domain.series import ImagingSeries
from provenance.canonical import canonical_json, sha256_digest
from veraicon.recall.tables import CopyRow, OutputRow, OutputSeriesRow, RecalledRow, RecallRow, SourceCopyRow

_PURPOSE = b"veraicon source patient\x00"


def patient_token(salt: bytes, patient: PatientIdentifier) -> str:
    """Return the salted token of a source's patient: equal for equal identifiers, and nothing without the site's salt."""
    told = canonical_json({"system": patient.system, "value": patient.value})
    return f"sha256:{hmac.new(salt, _PURPOSE + told, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Copy:
    """A place that series of one output went to.

    Attributes
    ----------
    recipient, protocol : str
        See `veraicon.recall.tables.CopyRow`.
    sent_at : datetime
        The last time.
    accepted : bool
        Whether the recipient said that it has everything.
    """

    recipient: str
    protocol: str
    sent_at: datetime
    accepted: bool


@dataclass(frozen=True, slots=True)
class SourceSeries:
    """A received series that is about to be given away.

    Attributes
    ----------
    patient : PatientIdentifier or None
        None where the series does not say whose it is.
    """

    series_uid: str
    study_uid: str
    patient: PatientIdentifier | None


@dataclass(frozen=True, slots=True)
class SourceCopy:
    """A folder that a received series was exported to, with the last time."""

    series_uid: str
    recipient: str
    protocol: str
    sent_at: datetime


class Outputs:
    """Outputs and copies of a site.

    Parameters
    ----------
    salt : bytes
        The site's secret salt.
    """

    def __init__(self, engine: sa.Engine, salt: bytes) -> None:
        self._engine, self._salt = engine, salt

    def made(self, statement: ProvenanceStatement, patient: PatientIdentifier) -> None:
        """Note an output whose instances are written and have not left; a repeat changes nothing, what came after it stays."""
        row = OutputRow(
            request_id=statement.request_id,
            source_study_uid=statement.source_study_uid,
            source_series_uid=statement.source_series_uid,
            patient_token=patient_token(self._salt, patient),
            model_name=statement.model.name,
            weights_digest=statement.model.weights_digest,
            card_digest=statement.model.card_digest,
            software_version=statement.software_version,
            study_uid=statement.series.study_uid,
            generated_at=statement.generated_at,
            written_at=datetime.now(UTC),
        )
        series = [
            OutputSeriesRow(
                series_uid=one.series_uid,
                request_id=statement.request_id,
                instances=[[instance.sop_class_uid, str(instance.sop_instance_uid)] for instance in one.instances],
            )
            for one in statement.all_series
        ]

        def write(session: Session) -> None:
            if session.get(OutputRow, statement.request_id) is not None:
                return
            session.add(row)
            session.flush()
            for one in series:
                session.merge(one)

        in_transaction(self._engine, write)

    def leaving(self, request_id: str, recipient: str, protocol: str) -> None:
        """Note that all series of an output are about to be sent.

        Raises
        ------
        OutputRecalled
            If it was taken back meanwhile.
        """
        with Session(self._engine) as session:
            series = session.exec(select(OutputSeriesRow.series_uid).where(OutputSeriesRow.request_id == request_id)).all()
        # Noted first: a recall that begins now either is seen here, or sees the copy.
        self._copied(series, recipient, protocol)
        self.require_not_recalled(request_id)

    def arrived(self, request_id: str, receipt: Receipt) -> None:
        """Note that a destination has everything."""
        series = sa.select(col(OutputSeriesRow.series_uid)).where(col(OutputSeriesRow.request_id) == request_id)
        change = (
            sa.update(CopyRow)
            .where(
                col(CopyRow.series_uid).in_(series),
                col(CopyRow.recipient) == receipt.destination,
                col(CopyRow.protocol) == receipt.protocol,
            )
            .values(accepted_at=receipt.accepted_at)
        )
        in_transaction(self._engine, lambda session: session.execute(change))

    def attested(self, attestation: Attestation) -> None:
        """Note the attestation of an output."""
        digest = sha256_digest(attestation.jws.encode("ascii"))
        change = (
            sa.update(OutputRow)
            .where(col(OutputRow.request_id) == attestation.request_id)
            .values(attestation=digest, provenance_reference=attestation.provenance_reference)
        )
        in_transaction(self._engine, lambda session: session.execute(change))

    def ours(self, series_uids: Collection[str]) -> set[str]:
        """Return those of some series that belong to an output."""
        query = select(OutputSeriesRow.series_uid).where(col(OutputSeriesRow.series_uid).in_(list(series_uids)))
        with Session(self._engine) as session:
            return set(session.exec(query).all()) if series_uids else set()

    def hand_out(self, series_uids: Collection[str], recipient: str, protocol: str) -> None:
        """Note those of some series that are ours and about to be given to somebody who asked; others are not noted.

        Raises
        ------
        OutputRecalled
            If one was taken back meanwhile: our archive may not have hidden it yet.
        """
        found = self.ours(series_uids)
        # Noted first, as in `leaving`.
        self._copied(found, recipient, protocol)
        query = select(OutputSeriesRow.request_id).where(col(OutputSeriesRow.series_uid).in_(found)).distinct()
        with Session(self._engine) as session:
            requests = session.exec(query).all() if found else []
        for request_id in requests:
            self.require_not_recalled(request_id)

    def hand_out_sources(self, sources: Sequence[SourceSeries], recipient: str, protocol: str) -> None:
        """Note received series that are about to be given away; see `veraicon.recall.handing_out.hand_out_export`.

        Raises
        ------
        ConsentMissing
            If the consent to one was withdrawn by a recall.
        """
        now = datetime.now(UTC)
        tokens = {one.series_uid: patient_token(self._salt, one.patient) if one.patient else "" for one in sources}

        def write(session: Session) -> None:
            for one in sources:
                row = SourceCopyRow(
                    series_uid=one.series_uid,
                    recipient=recipient,
                    protocol=protocol,
                    day=now.date().isoformat(),
                    study_uid=one.study_uid,
                    patient_token=tokens[one.series_uid],
                    sent_at=now,
                )
                session.merge(row)

        in_transaction(self._engine, write)
        for token, study_uid in {(tokens[one.series_uid], one.study_uid) for one in sources}:
            self._require_consent(token, study_uid)

    def source_copies(self, tokens: Sequence[str], study_uid: str) -> list[SourceCopy]:
        """Return where series of a patient, or of a study, were exported to, each once, with the last time."""
        columns = (col(SourceCopyRow.series_uid), col(SourceCopyRow.recipient), col(SourceCopyRow.protocol))
        meant = sa.or_(
            col(SourceCopyRow.patient_token).in_(list(tokens)),
            sa.and_(col(SourceCopyRow.study_uid) == study_uid, col(SourceCopyRow.study_uid) != ""),
        )
        query = sa.select(*columns, sa.func.max(col(SourceCopyRow.sent_at)))
        query = query.where(meant).group_by(*columns).order_by(*reversed(columns))
        with Session(self._engine) as session:
            return [SourceCopy(uid, who, how, aware(last)) for uid, who, how, last in session.execute(query)]

    def require_not_recalled(self, request_id: str) -> None:
        """Go on only with what is not taken back; see `require_not_recalled`."""
        require_not_recalled(self._engine, request_id)

    def require_not_recalled_meanwhile(self, request_id: str) -> None:
        """See that nothing was recalled while its resources were being written; a recall that has passed it by is reopened.

        Raises
        ------
        OutputRecalled
            If it was: `veraicon recall resume` then withdraws what was written.
        """
        with Session(self._engine) as session:
            recalls = session.exec(select(RecalledRow.recall_id).where(RecalledRow.request_id == request_id)).all()
        reopened = sa.update(RecalledRow).where(col(RecalledRow.request_id) == request_id)
        unfinished = sa.update(RecallRow).where(col(RecallRow.recall_id).in_(recalls))

        def write(session: Session) -> None:
            session.execute(reopened.values(kind="output", fhir_at=None, finished_at=None))
            session.execute(unfinished.values(finished_at=None))

        if recalls:
            in_transaction(self._engine, write)
        self.require_not_recalled(request_id)

    def row(self, request_id: str) -> OutputRow | None:
        """Return what is kept of an output; None where nothing of the request was written."""
        with Session(self._engine) as session:
            return session.get(OutputRow, request_id)

    def require_consent(self, series: ImagingSeries) -> None:
        """Go on only with a source whose consent was not withdrawn by a recall.

        Raises
        ------
        ConsentMissing
            If a recall for that reason names its patient or its study, and nobody has lifted it.
        """
        self._require_consent(patient_token(self._salt, series.patient), series.study_uid)

    def copies(self, request_id: str) -> list[Copy]:
        """Return the places that an output went to, each once, with the last time."""
        sent, accepted = sa.func.max(col(CopyRow.sent_at)), sa.func.max(col(CopyRow.accepted_at))
        query = (
            sa.select(col(CopyRow.recipient), col(CopyRow.protocol), sent, accepted)
            .join(OutputSeriesRow, col(OutputSeriesRow.series_uid) == col(CopyRow.series_uid))
            .where(col(OutputSeriesRow.request_id) == request_id)
            .group_by(col(CopyRow.recipient), col(CopyRow.protocol))
            .order_by(col(CopyRow.protocol), col(CopyRow.recipient))
        )
        with Session(self._engine) as session:
            return [Copy(who, how, aware(last), word is not None) for who, how, last, word in session.execute(query)]

    def series(self, request_id: str) -> Mapping[str, Sequence[tuple[str, str]]]:
        """Return the series of an output, each with class and UID of its instances."""
        with Session(self._engine) as session:
            rows = session.exec(select(OutputSeriesRow).where(OutputSeriesRow.request_id == request_id)).all()
        return {row.series_uid: [(one[0], one[1]) for one in row.instances] for row in rows}

    def _require_consent(self, token: str, study_uid: str) -> None:
        open_ones = select(RecallRow).where(col(RecallRow.lifted_at).is_(None), RecallRow.reason == "consent")
        with Session(self._engine) as session:
            for recall in session.exec(open_ones):
                if token in recall.blocked_patients or study_uid == recall.blocked_study:
                    raise ConsentMissing(
                        found=f"a source whose consent was withdrawn (recall {recall.recall_id[:8]})",
                        allowed="sources that no recall for consent names",
                        action="use another series; where consent was given again: veraicon recall lift",
                    )

    def _copied(self, series_uids: Collection[str], recipient: str, protocol: str) -> None:
        if not series_uids:
            return
        now = datetime.now(UTC)

        def write(session: Session) -> None:
            for uid in sorted(series_uids):
                key = (uid, recipient, protocol, now.date().isoformat())
                row = session.get(CopyRow, key) or CopyRow(
                    series_uid=uid, recipient=recipient, protocol=protocol, day=key[3], sent_at=now
                )
                row.sent_at = now
                session.add(row)

        in_transaction(self._engine, write)


def require_not_recalled(engine: sa.Engine, request_id: str) -> None:
    """Go on only with a request that is not taken back.

    Raises
    ------
    OutputRecalled
        If it is.
    """
    with Session(engine) as session:
        recalled = session.exec(select(RecalledRow.recall_id).where(RecalledRow.request_id == request_id)).first()
    if recalled is not None:
        raise OutputRecalled(
            found=f"a request that was recalled (recall {recalled[:8]})",
            allowed="requests that are not recalled",
            action="see why: veraicon recall show; make a new request if the reason no longer holds",
        )


def aware(moment: datetime) -> datetime:
    """Return a time with its zone: SQLite forgets it, and all of ours are UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
