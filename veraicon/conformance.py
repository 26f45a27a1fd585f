"""What the conformance statement of a site needs to know from outside of its DICOM node."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi.routing import APIRoute
from pydicom.dataset import Dataset

from dicom_node.conformance.facts import (
    Facts,
    NodeFacts,
    PrivateBlock,
    PrivateElement,
    PublishedFacts,
    RemoteFacts,
    WebFacts,
    WebRoute,
    WebStatus,
)
from domain.errors import (
    AnswerUnacceptable,
    BodyTooLarge,
    BodyUnsupported,
    RequestInvalid,
    ResourceNotFound,
    UnreadableInstance,
    VeraiconError,
)
from domain.identifiers import InstanceUid
from domain.series import GeneratedInstance
from provenance.as_dicom import PRIVATE_CREATOR, PRIVATE_GROUP, embed
from provenance.canonical import sha256_digest
from provenance.digesting.series_tree import InstanceProof
from provenance.signing import SigningKey
from veraicon.api.dicomweb import qido, rendered, stow, wado
from veraicon.api.dicomweb.answers import DICOMWEB, status_of
from veraicon.settings import Settings

_SERVICES = (
    ("Search (QIDO-RS)", qido),
    ("Retrieve (WADO-RS)", wado),
    ("Retrieve (WADO-RS)", rendered),
    ("Store (STOW-RS)", stow),
)

# Routes hold on to their site and ask nothing of it before they are called.
_NO_SITE: Any = None

_MEANINGS = {
    0x01: "layout of this block",
    0x02: "signed statement about all series of the request (compact JWS)",
    0x03: "reference of the FHIR Provenance resource",
    0x04: "key that signed (RFC 7638 thumbprint)",
    0x05: "digests of this instance and its way to the root of its series that the statement holds (canonical JSON)",
}

_REFUSALS: tuple[tuple[type[VeraiconError], str], ...] = (
    (RequestInvalid, "a path, parameter or body that is none; a body that ends in the middle"),
    (ResourceNotFound, "nothing is held under the path"),
    (AnswerUnacceptable, "Accept allows no form in which the resource can be given"),
    (BodyTooLarge, "an instance is longer than is taken, or there are too many"),
    (BodyUnsupported, "a body of another media type"),
    (UnreadableInstance, "the bytes of a held instance have changed on disk"),
)


def facts_of(settings: Settings) -> Facts:
    """Return the facts of a site as its settings have it; nothing is opened or asked."""
    return Facts(
        product="Veraicon",
        version=version("veraicon"),
        node=_node(settings),
        remotes=RemoteFacts(
            destinations=len(settings.destinations),
            web_destinations=sum(peer.publish for peer in settings.dicomweb),
            timeouts_s=tuple(sorted({peer.timeout_s for peer in settings.destinations})),
        ),
        web=WebFacts(
            root=DICOMWEB,
            port=settings.http.port,
            token=bool(settings.http.token.get_secret_value()),
            maximum_instance_bytes=settings.http.max_instance_mib * 2**20,
            routes=web_routes(),
            statuses=_web_statuses(),
        ),
        published=PublishedFacts(
            image=settings.publication.image,
            segmentation=settings.publication.segmentation,
            summary=settings.publication.summary,
            block=private_block(),
        ),
    )


def web_routes() -> tuple[WebRoute, ...]:
    """Return the resources of our DICOMweb service, each with what its handler says that it does."""
    return tuple(
        WebRoute(service, method, route.path_format, (route.endpoint.__doc__ or "").strip().splitlines()[0])
        for service, module in _SERVICES
        for route in module.router(_NO_SITE).routes
        if isinstance(route, APIRoute)
        for method in sorted(route.methods or ())
    )


def private_block() -> PrivateBlock:
    """Return the block as it is embedded: a statement that says nothing, under a key that nobody keeps."""
    proof = InstanceProof(GeneratedInstance("", InstanceUid(""), None, sha256_digest(b"")), leaf=0, path=())
    ds = embed(Dataset(), SigningKey.generate().sign({}, kind="none"), "Provenance/none", proof)
    elements = tuple(
        PrivateElement(element.tag.element & 0xFF, element.VR, _MEANINGS[element.tag.element & 0xFF])
        for element in ds
        if element.tag.element > 0xFF
    )
    return PrivateBlock(PRIVATE_GROUP, PRIVATE_CREATOR, elements)


def _node(settings: Settings) -> NodeFacts:
    node = settings.node
    return NodeFacts(
        ae_title=node.ae_title,
        port=node.port,
        tls_port=node.tls_port,
        client_certificates=bool(node.tls_client_ca),
        sources=len(settings.sources),
        maximum_pdu=node.maximum_pdu,
        maximum_associations=node.maximum_associations,
        maximum_message_bytes=node.maximum_message_mib * 2**20,
        unknown_storage_classes=node.unknown_storage_classes,
        artim_timeout_s=node.artim_timeout_s,
        dimse_timeout_s=node.dimse_timeout_s,
        pdu_timeout_s=node.pdu_timeout_s,
        idle_timeout_s=node.idle_timeout_s,
        settle_s=node.settle_s,
        min_free_bytes=settings.storage.min_free_mib * 2**20,
    )


def _web_statuses() -> tuple[WebStatus, ...]:
    def of(kind: type[VeraiconError]) -> int:
        return status_of(kind("a thing", allowed="another", action="do this"))

    refusals = [WebStatus(of(kind), when) for kind, when in _REFUSALS]
    others = [
        WebStatus(200, "the resource; or all instances were stored"),
        WebStatus(202, "some instances were stored; the answer names the others with their reasons"),
        WebStatus(204, "a search without a match"),
        WebStatus(401, "the bearer token is missing or wrong"),
        WebStatus(409, "no instance was stored; the answer names each with its reason"),
        WebStatus(503, "no instance was stored for want of room; send them again later"),
    ]
    return tuple(sorted([*others, *refusals], key=lambda one: one.status))
