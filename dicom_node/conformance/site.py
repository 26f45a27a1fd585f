"""Sections 6 and 8 of the statement: what the settings of a site decide, and security."""

from __future__ import annotations

from dicom_node.association.tls import SUITES_OF_TLS_1_2
from dicom_node.conformance.document import Section, Table, not_supported
from dicom_node.conformance.facts import Facts, NodeFacts


def configuration(facts: Facts) -> Section:
    """Return section 6."""
    node, web, remotes = facts.node, facts.web, facts.remotes
    rows = [
        ("AE title", "node.ae_title", node.ae_title),
        ("Port without TLS", "node.port", node.port or "none"),
        ("Port over TLS", "node.tls_port", node.tls_port or "none"),
        ("Peers that may call", "sources", f"{node.sources} listed" if node.sources else "none listed: any"),
        ("Peers that get what is published, by DIMSE", "destinations", remotes.destinations or "none: our own archive"),
        ("Peers that get what is published, by DICOMweb", "dicomweb", remotes.web_destinations or "none"),
        ("Published images", "publication.image", facts.published.image),
        ("Published segmentation", "publication.segmentation", "yes" if facts.published.segmentation else "no"),
        ("Published summary", "publication.summary", facts.published.summary),
        ("Quiet time after which a series is complete, s", "node.settle_s", f"{node.settle_s:g}"),
        ("HTTP port", "http.port", web.port),
        ("Bearer token of callers over HTTP", "http.token", "required" if web.token else "none: loopback only"),
        ("Longest instance over HTTP, MiB", "http.max_instance_mib", web.maximum_instance_bytes // 2**20),
    ]
    return Section(
        "6",
        "Configuration",
        (
            "All of it is set in one file (`veraicon config example` prints each setting with its default) or in the "
            "environment. The values here are those of the site for which this statement was printed.",
        ),
        (Table.of("Parameters", ("Parameter", "Setting", "Value"), rows),),
    )


def security(facts: Facts) -> Section:
    """Return section 8."""
    node = facts.node
    ports = [
        ("DICOM", node.port or "none", "inbound", "associations without TLS"),
        ("DICOM over TLS", node.tls_port or "none", "inbound", "associations over TLS"),
        ("HTTP", facts.web.port, "inbound", "DICOMweb; TLS has to be ended before it"),
        ("DICOM", "as configured for the peer", "outbound", "associations that we open, with or without TLS"),
        ("HTTPS or HTTP", "as configured for the peer", "outbound", "DICOMweb of peers"),
    ]
    return Section(
        "8",
        "Security",
        sections=(
            Section(
                "8.1",
                "Introduction",
                (
                    "Who may associate is decided by called and calling AE title, by host or network, and by TLS where a "
                    "source requires it. Logs hold no patient data: neither identifiers nor data sets are logged.",
                ),
            ),
            Section(
                "8.2",
                "External network requirements",
                ("None beside name resolution for peers that are configured by name.",),
            ),
            Section(
                "8.3",
                "TCP port configuration",
                tables=(Table.of("Ports", ("Protocol", "Port", "Direction", "Use"), ports),),
            ),
            _profiles(node),
            Section(
                "8.5",
                "User Identity Negotiation",
                ("As initiator: not supported. As acceptor: not evaluated; an association is not rejected for it.",),
            ),
            Section(
                "8.6",
                "Audit",
                (
                    "Each association leaves one line in the structured log: source, host, TLS subject, outcome, reason, "
                    "counts, duration. Audit messages of PS3.15 A.5 and their transmission by syslog are not supported.",
                ),
            ),
            Section(
                "8.7",
                "Web services",
                ("Callers send a bearer token where one is configured; without one the service listens on loopback only.",),
            ),
        ),
    )


def _profiles(node: NodeFacts) -> Section:
    listens = f"listens on port {node.tls_port}" if node.tls_port else "does not listen over TLS as configured"
    asked = "has to show a certificate" if node.client_certificates else "is not asked for a certificate"
    return Section(
        "8.4",
        "DICOM security profiles",
        sections=(
            not_supported("8.4.1", "Secure Use Profiles"),
            Section(
                "8.4.2",
                "Secure Transport Connection Profiles",
                (
                    "BCP 195 RFC 8996, 9325 TLS Secure Transport Connection Profile (PS3.15 B.12), as initiator and "
                    f"acceptor: TLS 1.2 and 1.3. The node {listens}; a caller {asked}. Session resumption, compression and "
                    "renegotiation are switched off. As initiator the peer's certificate is verified, with its host name "
                    "unless the settings say otherwise. A certificate's expiry is checked; revocation lists and OCSP are "
                    "not supported.",
                ),
                (
                    Table.of(
                        "Cipher suites of TLS 1.2; those of TLS 1.3 are its own",
                        ("Suite",),
                        ((one,) for one in SUITES_OF_TLS_1_2),
                    ),
                ),
            ),
            not_supported("8.4.3", "Media Storage Security Profiles"),
            not_supported("8.4.4", "Attribute Confidentiality Profiles"),
            Section(
                "8.4.5",
                "Digital Signature Profiles",
                (
                    "Creator RSA Digital Signature Profile (PS3.15 C.2), created where a site has a certificate for it: each "
                    "published instance carries one signature over all of its attributes, RSA of at least 3072 bits, MAC "
                    "algorithm SHA384, MAC calculation transfer syntax Explicit VR Little Endian. Signatures in received "
                    "instances are kept and not verified.",
                    "Beside it, and always, published instances carry a signature of another kind: a JSON Web Signature "
                    "(ES384) over digests of their attributes and pixels, in the private block of annex A.",
                ),
            ),
        ),
    )
