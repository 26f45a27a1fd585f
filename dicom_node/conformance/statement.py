"""The DICOM conformance statement, in the order of the template of PS3.2 Annex N.

Everything that a table of the code decides is taken from that table; what the node does not do is said to be not supported.

References
----------
DICOM PS3.2 Annex N (DICOM Conformance Statement Template, normative).
"""

from __future__ import annotations

from dicom_node.conformance.document import Document, Section
from dicom_node.conformance.facts import Facts
from dicom_node.conformance.network import network
from dicom_node.conformance.objects import code_annex, object_annex
from dicom_node.conformance.overview import overview
from dicom_node.conformance.services import services
from dicom_node.conformance.site import configuration, security


def statement(facts: Facts) -> Document:
    """Return the statement of a site."""
    sections = (
        overview(facts),
        _introduction(),
        _model(facts),
        services(facts),
        configuration(facts),
        network(facts),
        security(facts),
        object_annex(facts.published),
        Section(
            "B",
            "Structured Report content encoding",
            (
                "The optional summary is an Enhanced SR without a template: a container with one container for each "
                "section and one text for each line, all with private concept names (annex E). Received reports are "
                "stored, not read.",
            ),
        ),
        Section("C", "Security details", ("None beyond section 8.",)),
        _mapping(),
        code_annex(),
    )
    contents = Section("2", "Table of Contents", ("\n".join(f"- {one.number} {one.title}" for one in sections),))
    return Document(
        f"DICOM Conformance Statement: {facts.product} {facts.version}",
        (
            f"Product: {facts.product}. Version: {facts.version}. It is research software: no claim of regulatory clearance "
            "is made.",
            "This statement follows the template of PS3.2 Annex N. It is printed by the product itself (`veraicon "
            "conformance dicom`) from the tables that it works by.",
        ),
        (sections[0], contents, *sections[1:]),
    )


def _introduction() -> Section:
    return Section(
        "3",
        "Introduction",
        sections=(
            Section("3.1", "Revision History", ("The history of the product's repository is that of this statement.",)),
            Section(
                "3.2",
                "Audience",
                ("Administrators of PACS and networks, integrators, and those who test the product. DICOM is taken as known.",),
            ),
            Section(
                "3.3",
                "Remarks",
                (
                    "Two conformance statements that fit are no proof that two products work together: that has to be "
                    "tested at the site.",
                ),
            ),
            Section(
                "3.4",
                "Terms and Definitions",
                (
                    "*Source*: a peer that may send to us. *Destination*: a peer that gets what is published. "
                    "*Publication*: the series of one request, sent and accepted. All other terms are those of the "
                    "standard.",
                ),
            ),
            Section("3.5", "Abbreviations", ("Those of the standard.",)),
            Section(
                "3.6",
                "References",
                (
                    "DICOM PS3.1 to PS3.22, https://www.dicomstandard.org; RFC 8996, RFC 9325 (TLS); RFC 7515 (JSON Web "
                    "Signature).",
                ),
            ),
        ),
    )


def _model(facts: Facts) -> Section:
    return Section(
        "4",
        "Implementation Model",
        sections=(
            Section(
                "4.1",
                "Application Entities and Data Flow",
                (
                    "- A source sends a series (C-STORE, STOW-RS), or somebody has it fetched (C-GET, C-MOVE). It is kept "
                    "in the archive.\n"
                    "- When a series is complete, a request is made of it: series and clinical context condition a "
                    "generator, and the volume is checked.\n"
                    "- What passes is written, marked as synthetic, signed, and sent to each destination (C-STORE, "
                    "STOW-RS), which is asked to commit to it (Storage Commitment).\n"
                    "- Anyone who may call queries and retrieves what the archive holds (C-FIND, C-MOVE, C-GET, QIDO-RS, "
                    "WADO-RS).",
                ),
            ),
            Section(
                "4.2",
                "Functional Definition",
                (
                    f"The Application Entity {facts.node.ae_title} listens while `veraicon serve` runs. Publications are "
                    "sent by its worker process, under the same AE title. A commitment report is heard by the node, "
                    "whichever process asked.",
                ),
            ),
            Section(
                "4.3",
                "Sequencing",
                (
                    "A publication is sent after its volume has passed the checks, never before; commitment is asked for "
                    "after all of it was accepted; the signed attestation follows. A step that was interrupted is done "
                    "again with the same UIDs and the same bytes.",
                ),
            ),
        ),
    )


def _mapping() -> Section:
    return Section(
        "D",
        "Mapping of attributes",
        (
            "Of the source's attributes only its UIDs are copied into a published instance, as references. Patient, study "
            "and series are new, and derived from the request: no name, id or date of a real patient is copied.",
        ),
    )
