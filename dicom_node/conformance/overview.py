"""Section 1 of the statement: what the product does, at a glance."""

from __future__ import annotations

from dicom_node.conformance.contexts import storage_classes
from dicom_node.conformance.document import Section, Table, not_supported
from dicom_node.conformance.facts import Facts
from dicom_node.conformance.objects import CREATED_CLASSES
from dicom_node.presentation import FIND_CLASSES, GET_CLASSES, MOVE_CLASSES
from dicom_node.reading import CLASSIC
from dicom_node.volumes.multiframe import ENHANCED

_YES, _NO = "Y", "N"

# As the routes are sorted by them; each is called at a peer too.
_WEB_SERVICES = ("Retrieve (WADO-RS)", "Store (STOW-RS)", "Search (QIDO-RS)")


def overview(facts: Facts) -> Section:
    """Return section 1."""
    return Section(
        "1",
        "Overview",
        (
            f"{facts.product} stands between a PACS and an EHR. It receives imaging series, generates synthetic volumes "
            "that are conditioned on a series and on the clinical context of its patient, and publishes them as DICOM "
            "series of a synthetic patient: images, a segmentation and a summary, each marked as synthetic and signed. It "
            "keeps what it receives and publishes in an archive of its own, which can be queried and retrieved from.",
        ),
        sections=(
            _content(),
            _dimse(),
            _web(facts),
            _media(),
            not_supported("1.5", "Real-Time Video"),
            _de_identification(),
            _character_sets(),
        ),
    )


def _content() -> Section:
    read = {*CLASSIC, *ENHANCED}
    rows = [
        (name, uid, _YES if uid in CREATED_CLASSES else _NO, _YES if uid in read else _NO, _YES, _YES)
        for uid, name in storage_classes().items()
    ]
    return Section(
        "1.1",
        "Content and Transfer",
        (
            "Instances of every storage SOP class are received, kept byte for byte and sent, also of private classes and "
            "of classes that the standard gets later: see 5.2.5. *Read* says which of them can be the source of a "
            "generated series.",
        ),
        (Table.of("Table 1-1. Storage SOP classes", ("SOP Class", "UID", "Created", "Read", "SCU", "SCP"), rows),),
    )


def _dimse() -> Section:
    rows = [
        ("Verification", "Verification", _YES, _YES),
        ("Storage", "see table 1-1", _YES, _YES),
        ("Storage Commitment", "Storage Commitment Push Model", _YES, _YES),
        ("Workflow management", "Modality Performed Procedure Step", _NO, _YES),
        ("Workflow management", "Modality Worklist", _NO, _NO),
        ("Workflow management", "Unified Procedure Step", _NO, _NO),
        ("Workflow management", "Instance Availability Notification", _NO, _NO),
        *(("Query/Retrieve", uid.name, _YES, _YES) for uid in FIND_CLASSES),
        # What `veraicon peer pull` proposes is the Study Root; the node serves both.
        *(("Query/Retrieve", uid.name, _YES if uid in (GET_CLASSES[1], MOVE_CLASSES[1]) else _NO, _YES) for uid in GET_CLASSES),
        *(
            ("Query/Retrieve", uid.name, _YES if uid in (GET_CLASSES[1], MOVE_CLASSES[1]) else _NO, _YES)
            for uid in MOVE_CLASSES
        ),
        ("Print management", "all", _NO, _NO),
    ]
    return Section(
        "1.2", "DIMSE Services", tables=(Table.of("Table 1-2. DIMSE services", ("Service", "SOP Class", "SCU", "SCP"), rows),)
    )


def _web(facts: Facts) -> Section:
    served = {route.service for route in facts.web.routes}
    rows = [("Studies", name, _YES, _YES if name in served else _NO) for name in _WEB_SERVICES]
    rows += [
        (name, "all", _NO, _NO)
        for name in (
            "URI (WADO-URI)",
            "Worklist (UPS-RS)",
            "Non-Patient Instance",
            "Storage Commitment",
            "Modality Scheduled Procedure Step",
            "Modality Performed Procedure Step",
        )
    ]
    return Section(
        "1.3",
        "DICOM Web Services",
        tables=(Table.of("Table 1-3. Web services", ("Service", "Transaction", "User agent", "Origin server"), rows),),
    )


def _media() -> Section:
    rows = [
        ("File-Set Creator", _YES),
        ("File-Set Reader", _NO),
        ("File-Set Updater", _NO),
    ]
    return Section(
        "1.4",
        "Media Services",
        ("No application profile of PS3.11 is claimed: see 5.4.",),
        (Table.of("Table 1-4. Media roles", ("Role", "Supported"), rows),),
    )


def _de_identification() -> Section:
    return Section(
        "1.6",
        "De-identification Profiles",
        (
            "Not supported: nothing is de-identified. What is published belongs to a synthetic patient from the beginning, "
            "and Patient Identity Removed (0012,0062) is not written.",
        ),
    )


def _character_sets() -> Section:
    return Section("1.7", "Specific Character Sets", ("Published instances use ISO_IR 192 (Unicode in UTF-8). See 5.7.",))
