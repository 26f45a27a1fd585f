"""Section 5.3 of the statement: web services, from the routes and tables that they work by."""

from __future__ import annotations

from pydicom.datadict import dictionary_description
from pydicom.uid import ExplicitVRLittleEndian

from dicom_node.conformance.contexts import syntax_name
from dicom_node.conformance.document import Section, Table, not_supported
from dicom_node.conformance.facts import WebFacts
from dicom_node.web.media_types import DICOM, DICOM_JSON, ENCODABLE, OCTETS, image_type
from dicom_node.web.query import MAXIMUM_PAGE, RETURNED
from dicom_node.web.rendering import RENDERED_TYPES


def web_services(number: str, web: WebFacts) -> Section:
    """Return section 5.3."""
    return Section(
        number,
        "DICOM Web Services",
        (f"The service root is `{web.root}` on the HTTP port of section 6.",),
        sections=(
            not_supported(f"{number}.1", "URI Web Service"),
            Section(
                f"{number}.2",
                "Studies Web Service",
                sections=(
                    _media_types(f"{number}.2.1"),
                    _retrieve(f"{number}.2.2", web),
                    _store(f"{number}.2.3", web),
                    _search(f"{number}.2.4", web),
                ),
            ),
            not_supported(f"{number}.3", "Worklist Web Service"),
            not_supported(f"{number}.4", "Non-Patient Instance Web Service"),
            not_supported(f"{number}.5", "Notification Web Service"),
            not_supported(f"{number}.6", "Storage Commitment Web Service"),
            not_supported(f"{number}.7", "Modality Scheduled Procedure Step Web Service"),
            not_supported(f"{number}.8", "Modality Performed Procedure Step Web Service"),
        ),
    )


def _media_types(number: str) -> Section:
    rows = [
        ("instances", DICOM, "as held, or Explicit VR Little Endian, or a lossless syntax below where the caller names it"),
        ("metadata, search and store answers", DICOM_JSON, "JSON model; XML is not supported"),
        ("uncompressed frames, bulk data", OCTETS, syntax_name(ExplicitVRLittleEndian)),
        *((f"frames encoded in {uid.name}", image_type(uid), syntax_name(uid)) for uid in ENCODABLE),
        ("frames held in another compressed syntax", "that of PS3.18 8.7.3.3", "as held"),
        *(("rendered", media_type, "8 bits") for media_type in RENDERED_TYPES),
    ]
    return Section(
        number,
        "Media types",
        (
            "Accept is read with its quality values, its transfer-syntax parameter and wildcards; the query parameter "
            "`accept` stands above it. Instances are transcoded only where the caller asks for it, and never with a loss.",
        ),
        (Table.of("Media types that are given", ("Content", "Media type", "Form"), rows),),
    )


def _retrieve(number: str, web: WebFacts) -> Section:
    return Section(
        number,
        "Retrieve Transaction (WADO-RS)",
        (
            "As user agent: series of a peer are fetched whole (`veraicon peer pull`), as "
            f'multipart/related; type="{DICOM}" in any transfer syntax, which is kept as it comes. Each instance is durable '
            "before it is counted. One that is no DICOM is counted as failed and kept aside; one of another series than was "
            "asked for ends the retrieval. While the peer cannot be reached, the series is asked for again, with growing "
            "pauses. Metadata, frames, bulk data and rendered pictures are not asked for.",
            "As origin server: the resources below. Answers are made while they are sent, and each instance is checked "
            "against the digest with which it was received: one whose bytes have changed on disk is not given. Rendering "
            "takes window, viewport and quality; annotation and iccprofile are not supported, and a Warning header says "
            "so. A rendered picture of an instance that is marked as synthetic says so in its pixels, in its XMP (IPTC "
            "Digital Source Type) and in a Link header of the answer.",
        ),
        (_routes(web, "Retrieve (WADO-RS)"),),
    )


def _store(number: str, web: WebFacts) -> Section:
    return Section(
        number,
        "Store Transaction (STOW-RS)",
        (
            "As user agent: a destination that speaks only DICOMweb gets what is published in multipart requests; each "
            "instance that it refuses is counted with its reason, and a publication that was not accepted whole is tried "
            "again.",
            f"As origin server: multipart/related of {DICOM}, each part at most {web.maximum_instance_bytes // 2**20} MiB. "
            "What the answer counts as stored is durable. A duplicate is counted as stored; other bytes under a held UID, "
            "and an instance of another study than the path names, are failures. Metadata with separate bulk data is not "
            "supported.",
        ),
        (_routes(web, "Store (STOW-RS)"),),
    )


def _search(number: str, web: WebFacts) -> Section:
    returned = [
        Table.of(
            f"Attributes that a search returns by itself, level {level}",
            ("Attribute", "Keyword"),
            ((dictionary_description(keyword), keyword) for keyword in keywords),
        )
        for level, keywords in RETURNED.items()
    ]
    return Section(
        number,
        "Search Transaction (QIDO-RS)",
        (
            "As user agent: studies, series and instances are searched for (`veraicon peer find`, `veraicon peer pull`) below "
            "the study and series that are known, else by keyword with the wildcards, ranges and lists of C-FIND, with "
            "`includefield` and, page by page until a page brings nothing new, `offset`. Patients are those of the studies "
            "that match. Studies that a peer returns for another accession number or Patient ID than was asked for are not "
            "fetched. A peer is asked for one study, to see whether it answers (`veraicon peer echo`, `veraicon doctor`).",
            "As origin server: the resources below, matched as C-FIND is (5.2.7) by keyword or tag, with `includefield` "
            f"(also `all`), `limit` and `offset`. A page has at most {MAXIMUM_PAGE} matches; a Warning header says how many "
            "lie beyond it, and what was asked for and is not supported: fuzzymatching, attributes in sequences, counts of "
            "another level. A search without a match is answered with 204.",
        ),
        (_routes(web, "Search (QIDO-RS)"), *returned),
    )


def _routes(web: WebFacts, service: str) -> Table:
    return Table.of(
        f"Resources of {service}",
        ("Method", "Path", "Action"),
        ((route.method, web.root + route.path, route.does) for route in web.routes if route.service == service),
    )
