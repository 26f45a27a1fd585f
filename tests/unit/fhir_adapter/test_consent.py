from __future__ import annotations

from datetime import UTC, datetime

import pytest

from domain.errors import ConsentMissing
from fhir_adapter.clinical.consent import require_consent
from tests.builders_fhir import concept, patient, raw, research_consent

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
THO = "http://terminology.hl7.org/CodeSystem"
RESEARCH = {"purpose": [{"system": f"{THO}/v3-ActReason", "code": "HRESCH"}]}
TREATMENT = {"purpose": [{"system": f"{THO}/v3-ActReason", "code": "TREAT"}]}
ACT = f"{THO}/v3-ActCode"


def scope(code):
    return concept(code, code, f"{THO}/consentscope")


PRIVACY = scope("patient-privacy")


def check(*consents, labels=()):
    person = patient(meta={"security": [{"system": f"{THO}/{system}", "code": code} for system, code in labels]})
    return require_consent(raw(person)[0], raw(*consents), now=NOW)


@pytest.mark.parametrize(
    ("consents", "words"),
    [
        ([], "no restriction found: security labels of the Patient and 0 Consent"),
        ([research_consent(provision={"type": "permit"})], "research permitted by 1 active Consent"),
        ([research_consent()], "research permitted by 1 active Consent"),
        ([research_consent(status="inactive", provision={"type": "deny"})], "no restriction found"),
        ([research_consent(provision={"type": "deny", "period": {"end": "2026-05-31"}})], "no restriction found"),
        ([research_consent(provision={"type": "deny", "period": {"start": "2026-06-02"}})], "no restriction found"),
        ([research_consent(scope=PRIVACY, provision={"type": "deny", **TREATMENT})], "no restriction found"),
        (
            [research_consent(status="rejected", dateTime="2020"), research_consent("k2", dateTime="2021-01-01")],
            "research permitted by 1 active Consent",
        ),
        ([research_consent(scope=scope("treatment"), provision={"type": "deny"})], "no restriction found"),
        ([research_consent(status="inactive", scope={"text": "a study"})], "no restriction found"),
        (
            [
                research_consent(
                    scope=PRIVACY, provision={"type": "permit", **RESEARCH, "provision": [{"type": "deny", **TREATMENT}]}
                )
            ],
            "research permitted by 1 active Consent",
        ),
        (
            [
                research_consent(
                    scope=PRIVACY, provision={"class": [{"code": "x"}], "provision": [{"type": "permit", **RESEARCH}]}
                )
            ],
            "no denial found; 1 active Consent(s) permit",
        ),
        (
            [research_consent(provision={"type": "permit", "class": [{"code": "x"}]})],
            "no denial found; 1 active Consent(s) permit",
        ),
        ([research_consent(policyRule=concept("OPTIN", "x", ACT))], "research permitted by 1 active Consent"),
        ([research_consent(policyRule=concept("OPTINR", "x", ACT))], "no denial found; 1 active Consent(s) permit"),
    ],
)
def test_what_does_not_forbid_the_use_is_said_in_words(consents, words):
    assert check(*consents).startswith(words)


@pytest.mark.requirement("FHIR-CTX-002")
@pytest.mark.parametrize(
    "consent",
    [
        research_consent(provision={"type": "deny"}),
        research_consent(provision={"type": "deny", "period": {"end": "2026-06-01"}}),
        research_consent(provision={"type": "deny", "provision": [{"type": "permit", **RESEARCH}]}),
        research_consent(provision={"type": "permit", "provision": [{"type": "permit", "provision": [{"type": "deny"}]}]}),
        research_consent(scope=PRIVACY, provision={"type": "permit", "provision": [{"type": "deny", **RESEARCH}]}),
        research_consent(status="rejected"),
        research_consent(policyRule=concept("OPTOUT", "x", ACT)),
        research_consent(policyRule=concept("OPTOUTE", "x", ACT), provision={"provision": [{"type": "permit", **RESEARCH}]}),
        research_consent(scope=PRIVACY, provision={"type": "deny"}),
        research_consent(scope=PRIVACY, policyRule=concept("OPTOUT", "x", ACT)),
        research_consent(scope=PRIVACY, policyRule={"coding": [{"code": "OPTOUT"}]}, provision={"type": "permit", **TREATMENT}),
        research_consent(scope=PRIVACY, provision={"type": "permit", **RESEARCH, "provision": [{"type": "deny"}]}),
        research_consent(scope=scope("treatment"), provision={"type": "permit", "provision": [{"type": "deny", **RESEARCH}]}),
        research_consent(
            provision={"type": "deny", "purpose": [{"system": "http://hl7.org/fhir/v3/ActReason", "code": "HRESCH"}]}
        ),
        research_consent(provision={"type": "permit", "provision": [{"type": "deny", "class": [{"code": "Observation"}]}]}),
        research_consent(provision={"provision": [{"type": "deny", "actor": [{"reference": {"display": "somebody"}}]}]}),
    ],
)
def test_a_denial_in_force_forbids_the_use_even_beside_a_permission(consent):
    beside = [] if consent["status"] == "rejected" else [research_consent("k2")]
    with pytest.raises(ConsentMissing, match="Consent"):
        check(consent, *beside)


@pytest.mark.requirement("FHIR-CTX-002")
@pytest.mark.parametrize(
    "change",
    [
        {"status": "granted"},
        {"status": None},
        {"scope": None},
        {"provision": ["deny"]},
        {"provision": {"type": "forbid"}},
        {"provision": {"type": "permit", "provision": [{"code": [{"text": "no type"}]}]}},
        {"provision": {"type": "deny", "period": {"end": "soon"}}},
        {"modifierExtension": [{"url": "http://x"}]},
        {"provision": {"type": "permit", "modifierExtension": [{"url": "http://x"}]}},
        {"provision": {"type": "permit", "provision": [{"type": "permit", "modifierExtension": [{"url": "http://x"}]}]}},
        {"scope": {"text": "research"}},
        {"scope": {"coding": [{"code": "research"}]}},
        {"scope": concept("research", "Research", "http://local.example")},
        {"scope": PRIVACY, "provision": {"type": "deny", "purpose": [{"code": "HRESCH"}]}},
        {"scope": PRIVACY, "provision": {"type": "deny", "purpose": [{"system": "http://local.example", "code": "HRESCH"}]}},
        {"status": "rejected", "dateTime": "last year"},
    ],
)
def test_a_consent_that_cannot_be_read_forbids_the_use(change):
    with pytest.raises(ConsentMissing, match="cannot be read"):
        check(research_consent(**{"status": "active", **change}))


@pytest.mark.requirement("FHIR-CTX-002")
@pytest.mark.parametrize(
    "label", [("v3-Confidentiality", "R"), ("v3-Confidentiality", "V"), ("v3-ActCode", "NORELINK"), ("v3-ActCode", "NOREUSE")]
)
def test_a_restricting_label_on_the_patient_forbids_the_use(label):
    with pytest.raises(ConsentMissing, match=f"security label {label[1]} on the Patient"):
        check(research_consent(), labels=[label])


@pytest.mark.requirement("FHIR-CTX-002")
@pytest.mark.parametrize(
    "label",
    [
        {"code": "R"},
        {"system": "http://hl7.org/fhir/v3/Confidentiality", "code": "R"},
        {"system": "urn:oid:2.16.840.1.113883.5.25", "code": "V"},
        {"system": "http://hl7.org/fhir/v3/ActCode", "code": "OPTOUT"},
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_a_restricting_label_counts_under_old_names_without_one_and_on_a_merged_patient(label, merged):
    labelled, plain = raw(patient("p1", meta={"security": [label]}), patient("p2"))
    people = (plain, [labelled]) if merged else (labelled, [plain])
    with pytest.raises(ConsentMissing, match=f"security label {label['code']} on the Patient"):
        require_consent(people[0], raw(research_consent()), now=NOW, merged=people[1])


@pytest.mark.requirement("FHIR-CTX-002")
@pytest.mark.parametrize(
    ("rejected", "permitted"),
    [("2025-03-01", "2010-01-01"), ("2025-03-01", "2025-03-01T10:00:00Z"), ("2025", "2025-03"), ("2025", None), (None, "2025")],
)
@pytest.mark.parametrize(
    "wide", [research_consent(), research_consent(scope=PRIVACY, provision={"type": "permit", **RESEARCH})]
)
def test_only_a_permission_that_is_surely_later_lifts_a_rejection(rejected, permitted, wide):
    dates = [{"dateTime": stated} if stated else {} for stated in (rejected, permitted)]
    with pytest.raises(ConsentMissing, match="rejected"):
        check({**wide, "status": "rejected", **dates[0]}, {**wide, "id": "k2", **dates[1]})


@pytest.mark.requirement("FHIR-CTX-002")
def test_a_narrowed_permission_does_not_lift_a_rejection():
    with pytest.raises(ConsentMissing, match="rejected"):
        check(
            research_consent(status="rejected", dateTime="2020"),
            research_consent("k2", dateTime="2021", provision={"type": "permit", "data": [{}]}),
        )


def test_a_label_that_restricts_nothing_does_not_forbid_the_use():
    assert check(labels=[("v3-Confidentiality", "N"), ("v3-ActReason", "HTEST")]).startswith("no restriction found")
