"""What our node offers beside storage, query and retrieve, and whom it calls back."""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from dicom_node.association.policy import AuditTrail
from dicom_node.commitment.records import ReceivedCommitments, SentCommitments
from dicom_node.commitment.reporter import CommitmentReporter
from dicom_node.holding.procedure_steps import ProcedureSteps
from dicom_node.scu import Peer
from dicom_node.services.commitment import CommitmentService
from dicom_node.services.procedure_step import ProcedureStepService
from dicom_node.services.service import Service
from veraicon.settings import Settings
from veraicon.wiring import Site, peer_of

_log = structlog.get_logger()


@dataclass(frozen=True)
class NodeServices:
    """Storage commitment and procedure steps, with the audit trail that they share with the node.

    Attributes
    ----------
    reporter : CommitmentReporter
        Started after the node, stopped before it.
    """

    services: tuple[Service, ...]
    reporter: CommitmentReporter
    audit: AuditTrail


def node_services(site: Site) -> NodeServices:
    """Return the services of a site's node; tell of destinations whose commitment reports our node would reject."""
    audit = AuditTrail()
    received = ReceivedCommitments(site.engine)
    reporter = CommitmentReporter(received, site.archive, addresses=report_addresses(site.settings))
    services = (
        CommitmentService(received, SentCommitments(site.engine), reporter, audit),
        ProcedureStepService(ProcedureSteps(site.engine), audit),
    )
    for name in unheard_destinations(site.settings):
        _log.warning("a destination whose commitment reports are rejected: it is not among the sources", destination=name)
    return NodeServices(services, reporter, audit)


def report_addresses(settings: Settings) -> dict[str, Peer]:
    """Return where commitment reports can be brought, by AE title: sources with a port, and destinations."""
    destinations = {peer.ae_title: peer_of(peer, settings.node) for peer in settings.destinations}
    return destinations | {peer.ae_title: peer_of(peer, settings.node) for peer in settings.sources if peer.port}


def unheard_destinations(settings: Settings) -> list[str]:
    """Return the destinations that are asked to commit and may not call us with their report."""
    heard = {source.ae_title for source in settings.sources}
    asked = [peer for peer in settings.destinations if peer.commitment != "off"]
    return [peer.name for peer in asked if heard and peer.ae_title not in heard]
