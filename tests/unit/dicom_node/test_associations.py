"""Who may associate, which statuses errors become, and which contexts a sender proposes."""

from __future__ import annotations

import pytest
import structlog
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
from structlog.testing import capture_logs

from dicom_node.associations import CALLED_NOT_RECOGNISED, CALLING_NOT_RECOGNISED, AuditTrail, SourcePolicy, decide
from dicom_node.presentation import storage_contexts
from dicom_node.scp import StorageNode
from dicom_node.statuses import in_words, status_of
from domain.errors import ConfigurationError, StorageExhausted, UnreadableInstance
from tests.builders_dicom import series_datasets

SOURCES = {"CT1": SourcePolicy(("10.0.0.7",)), "MR1": SourcePolicy()}


@pytest.mark.parametrize(
    ("called", "calling", "host", "diagnostic"),
    [
        ("US", "CT1", "10.0.0.7", None),
        ("US  ", "  CT1", "10.0.0.7", None),
        ("US", "CT1", "10.0.0.8", CALLING_NOT_RECOGNISED),
        ("US", "MR1", "192.0.2.1", None),
        ("US", "XX", "10.0.0.7", CALLING_NOT_RECOGNISED),
        ("us", "CT1", "10.0.0.7", CALLED_NOT_RECOGNISED),
        ("OTHER", "CT1", "10.0.0.7", CALLED_NOT_RECOGNISED),
    ],
)
def test_titles_and_hosts_decide_who_may_associate(called: str, calling: str, host: str, diagnostic: int | None) -> None:
    refusal = decide(called=called, calling=calling, host=host, ae_title="US", allowed_sources=SOURCES)
    assert (refusal and refusal.diagnostic) == diagnostic


def test_without_a_list_anyone_may_call_but_only_us() -> None:
    assert decide(called="US", calling="X", host="192.0.2.1", ae_title="US", allowed_sources={}) is None
    assert decide(called="THEM", calling="X", host="192.0.2.1", ae_title="US", allowed_sources={}) is not None


def test_an_association_leaves_one_audit_line_with_its_counts() -> None:
    class Association:
        pass

    structlog.reset_defaults()
    trail, assoc = AuditTrail(), Association()
    record = trail.record(assoc)
    record.calling, record.outcome = "CT1", "released"
    record.count("stored")
    record.count("stored")
    with capture_logs() as lines:
        trail.close(assoc)
        trail.close(assoc)
    (line,) = lines
    assert (line["source"], line["outcome"], line["stored"]) == ("CT1", "released", 2)


def test_an_error_becomes_its_status_and_a_comment_that_fits_and_repeats_nothing() -> None:
    error = UnreadableInstance(found="Doe^Jane in a name", allowed="x", action="send the instance again " * 5)
    answered = status_of(error)
    assert answered.Status == 0xC000
    assert len(answered.ErrorComment) <= 64
    assert "Jane" not in answered.ErrorComment
    assert status_of(StorageExhausted(found="", allowed="", action="")).Status == 0xA700


@pytest.mark.parametrize(
    ("status", "words"), [(0xA7FF, "out of resources"), (0xA901, "does not match"), (0xC123, "cannot understand")]
)
def test_statuses_of_a_range_have_their_words(status: int, words: str) -> None:
    assert words in in_words(status)
    assert f"0x{status:04X}" in in_words(status)


def test_a_sender_proposes_what_it_has_one_syntax_a_context() -> None:
    datasets = series_datasets(3)
    datasets[2].file_meta.TransferSyntaxUID = RLELossless
    proposed = [(context.abstract_syntax, context.transfer_syntax) for context in storage_contexts(datasets)]
    sop_class = datasets[0].SOPClassUID
    assert proposed == [
        (sop_class, [ExplicitVRLittleEndian]),
        (sop_class, [ImplicitVRLittleEndian]),
        (sop_class, [RLELossless]),
    ]


@pytest.mark.parametrize(
    "options", [{"ae_title": ""}, {"ae_title": "SEVENTEEN-LETTERS"}, {"ae_title": "A\\B"}, {"maximum_pdu": 0}]
)
def test_a_node_refuses_settings_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        StorageNode(None, **({"ae_title": "US", "host": "127.0.0.1", "port": 0} | options))  # type: ignore[arg-type]  # never used
