"""What a statement needs to know that stands outside of this package: product, settings, web routes, private block."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """How a node is configured.

    Attributes
    ----------
    port, tls_port : int
        0 where it does not listen so.
    client_certificates : bool
        Whether callers over TLS have to show a certificate.
    sources : int
        How many sources are listed; none lets anyone in.
    maximum_pdu, maximum_message_bytes : int
        Bytes.
    unknown_storage_classes : bool
        Whether storage classes are accepted that the standard does not name.
    artim_timeout_s, dimse_timeout_s, pdu_timeout_s, idle_timeout_s : float
        As `dicom_node.scp.StorageNode` has them.
    min_free_bytes : int
        With less room on disk C-STORE is refused.
    """

    ae_title: str
    port: int
    tls_port: int
    client_certificates: bool
    sources: int
    maximum_pdu: int
    maximum_associations: int
    maximum_message_bytes: int
    unknown_storage_classes: bool
    artim_timeout_s: float
    dimse_timeout_s: float
    pdu_timeout_s: float
    idle_timeout_s: float
    settle_s: float
    min_free_bytes: int


@dataclass(frozen=True, slots=True)
class RemoteFacts:
    """How the peers of a site are configured.

    Attributes
    ----------
    destinations, web_destinations : int
        How many PACS get what is published, by DIMSE and by DICOMweb.
    timeouts_s : tuple of float
        Of destinations, each once.
    """

    destinations: int
    web_destinations: int
    timeouts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class WebRoute:
    """A resource of our DICOMweb service."""

    service: str
    method: str
    path: str
    does: str


@dataclass(frozen=True, slots=True)
class WebStatus:
    """An HTTP status that our DICOMweb service answers."""

    status: int
    when: str


@dataclass(frozen=True, slots=True)
class WebFacts:
    """Our DICOMweb service.

    Attributes
    ----------
    root : str
        Path below which its resources lie.
    port : int
    token : bool
        Whether callers need a bearer token.
    maximum_instance_bytes : int
        Longest instance that is taken.
    """

    root: str
    port: int
    token: bool
    maximum_instance_bytes: int
    routes: tuple[WebRoute, ...]
    statuses: tuple[WebStatus, ...]


@dataclass(frozen=True, slots=True)
class PrivateElement:
    """An element of a private block; its last two digits."""

    element: int
    vr: str
    meaning: str


@dataclass(frozen=True, slots=True)
class PrivateBlock:
    """The private block that published instances carry."""

    group: int
    creator: str
    elements: tuple[PrivateElement, ...]


@dataclass(frozen=True, slots=True)
class PublishedFacts:
    """What a site publishes of each volume.

    Attributes
    ----------
    image : str
        ``classic`` or ``enhanced``.
    segmentation : bool
    summary : str
        ``none``, ``pdf`` or ``sr``.
    block : PrivateBlock
    """

    image: str
    segmentation: bool
    summary: str
    block: PrivateBlock


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    product: str
    version: str
    node: NodeFacts
    remotes: RemoteFacts
    web: WebFacts
    published: PublishedFacts
