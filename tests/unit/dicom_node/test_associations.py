"""Who may associate, which statuses errors become, and which contexts a sender proposes."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from dicom_node.association.policy import (
    CALLED_NOT_RECOGNISED,
    CALLING_NOT_RECOGNISED,
    NO_REASON,
    AuditTrail,
    SourcePolicy,
    decide,
)
from dicom_node.scp import StorageNode
from dicom_node.statuses import in_words, status_of
from domain.errors import ConfigurationError, StorageExhausted, UnreadableInstance

SOURCES = {
    "CT1": SourcePolicy(("10.0.0.7",)),
    "MR1": SourcePolicy(),
    "NET": SourcePolicy(("10.1.0.0/16", "fd00::/8")),
    "TLS": SourcePolicy(tls_required=True),
}


@pytest.mark.requirement("DICOM-ASSOC-001")
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
        ("US", "NET", "10.1.200.3", None),
        ("US", "NET", "fd12::7", None),
        ("US", "NET", "::ffff:10.1.2.3", None),
        ("US", "NET", "10.2.0.1", CALLING_NOT_RECOGNISED),
        ("US", "NET", "fe80::1%eth0", CALLING_NOT_RECOGNISED),
        ("US", "TLS", "10.0.0.7", NO_REASON),
    ],
)
def test_titles_and_hosts_decide_who_may_associate(called: str, calling: str, host: str, diagnostic: int | None) -> None:
    refusal = decide(called=called, calling=calling, host=host, ae_title="US", allowed_sources=SOURCES)
    assert (refusal and refusal.diagnostic) == diagnostic


def test_a_source_that_must_use_tls_may_call_over_it() -> None:
    assert decide(called="US", calling="TLS", host="10.0.0.7", ae_title="US", allowed_sources=SOURCES, over_tls=True) is None


@pytest.mark.parametrize("host", ["scanner.example", "10.0.0.7/24", "10.0.0.300", ""])
def test_a_host_that_is_neither_address_nor_network_is_refused(host: str) -> None:
    with pytest.raises(ConfigurationError):
        SourcePolicy((host,))


def test_places_are_counted_for_all_and_for_each_source_and_freed_at_the_end() -> None:
    class Association:
        pass

    structlog.reset_defaults()
    trail, places = AuditTrail(), [Association() for _ in range(5)]
    for assoc, calling in zip(places, ("CT1", "CT1", "MR1", "MR1", "XX1"), strict=True):
        trail.record(assoc).calling = calling
    outcomes = [trail.admit(assoc, maximum=3, maximum_of_source=1) for assoc in places]
    assert [(refused.result, refused.source, refused.diagnostic) if refused else None for refused in outcomes] == [
        None,
        (2, 3, 2),
        None,
        (2, 3, 2),
        None,
    ]
    assert trail.admit(places[1], maximum=3, maximum_of_source=None) is not None
    trail.close(places[0])
    assert trail.admit(places[1], maximum=3, maximum_of_source=1) is None


def test_without_a_list_anyone_may_call_but_only_us() -> None:
    assert decide(called="US", calling="X", host="192.0.2.1", ae_title="US", allowed_sources={}) is None
    assert decide(called="THEM", calling="X", host="192.0.2.1", ae_title="US", allowed_sources={}) is not None


@pytest.mark.requirement("DICOM-ASSOC-010")
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


@pytest.mark.requirement("DICOM-STORE-013")
def test_an_error_becomes_its_status_and_a_comment_that_fits_and_repeats_nothing() -> None:
    error = UnreadableInstance(found="Doe^Jane in a name", allowed="x", action="send the instance again " * 5)
    answered = status_of(error)
    assert answered.Status == 0xC000
    assert len(answered.ErrorComment) <= 64
    assert answered.ErrorComment.endswith(" send the ..."), "whole words"
    assert "Jane" not in answered.ErrorComment
    assert status_of(StorageExhausted(found="", allowed="", action="")).Status == 0xA700


@pytest.mark.parametrize(
    ("status", "words"), [(0xA7FF, "out of resources"), (0xA901, "does not match"), (0xC123, "cannot understand")]
)
def test_statuses_of_a_range_have_their_words(status: int, words: str) -> None:
    assert words in in_words(status)
    assert f"0x{status:04X}" in in_words(status)


@pytest.mark.parametrize(
    "options", [{"ae_title": ""}, {"ae_title": "SEVENTEEN-LETTERS"}, {"ae_title": "A\\B"}, {"maximum_pdu": 0}]
)
def test_a_node_refuses_settings_that_cannot_work(options: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError):
        StorageNode(None, **({"ae_title": "US", "host": "127.0.0.1", "port": 0} | options))  # type: ignore[arg-type]  # never used
