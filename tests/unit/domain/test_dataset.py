from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.dataset import Split, difference, grouped, leaks
from tests.builders_dataset import HALVES, make_manifest, make_member, token

_PEOPLE = st.lists(st.text("abcdefgh", min_size=1, max_size=6), min_size=1, max_size=12)
_SPLITS = st.sampled_from([HALVES, Split(1, (("train", 0.8), ("validation", 0.1), ("test", 0.1))), Split(2, (("all", 1.0),))])


@pytest.mark.requirement("PROV-SPLIT-001")
@settings(max_examples=60, deadline=None)
@given(_PEOPLE, _SPLITS, st.randoms(use_true_random=False))
def test_no_person_is_in_two_parts_whatever_the_order(people, split, shuffled) -> None:
    """Several volumes of each person, and the source that they were made from."""
    members = {one.uid: one for person in people for one in (make_member(person, 0, source=True), *_volumes(person))}
    manifest = make_manifest(list(members.values()), split)
    assert leaks(manifest) == ()
    parts: dict[str, set[str]] = {}
    for member in manifest.members:
        parts.setdefault(member.subject, set()).add(member.part)
    assert all(len(names) == 1 for names in parts.values())
    turned = list(members.values())
    shuffled.shuffle(turned)
    assert make_manifest(turned, split) == manifest


@pytest.mark.requirement("PROV-SPLIT-002")
@settings(max_examples=60, deadline=None)
@given(_PEOPLE, _PEOPLE, _SPLITS)
def test_who_is_in_stays_in_its_part_when_others_come(people, others, split) -> None:
    before = make_manifest(_distinct(people), split)
    after = make_manifest(_distinct([*people, *others]), split)
    assert difference(before, after).moved == ()
    assert difference(before, after).removed == ()


def test_parts_get_about_the_share_that_was_asked_for() -> None:
    split = Split(3, (("train", 0.8), ("test", 0.2)))
    dealt = [split.part_of(token(str(number))) for number in range(2000)]
    assert 0.77 < dealt.count("train") / 2000 < 0.83


@pytest.mark.requirement("PROV-SPLIT-001")
def test_a_leak_made_by_hand_is_named() -> None:
    volumes = [make_member("a", 1), make_member("a", 2), make_member("b", 1), make_member("a", 0, source=True)]
    manifest = make_manifest(volumes)
    other = {"train": "test", "test": "train"}

    def leaking(index: int, **change: str) -> tuple[str, ...]:
        members = list(manifest.members)
        members[index] = replace(members[index], **change)
        return leaks(replace(manifest, members=tuple(members)))

    assert leaks(manifest) == ()
    first = manifest.members[0]
    assert any("lies in 2 parts" in one for one in leaking(0, part=other[first.part]))
    whole = tuple(replace(one, part=other[one.part]) for one in manifest.members)
    assert any("another part than the split deals" in one for one in leaks(replace(manifest, members=whole)))
    stranger = token("somebody else")
    assert any("counts as 2 subjects" in one for one in leaking(0, subject=stranger, part=HALVES.part_of(stranger)))
    assert any("listed twice" in one for one in leaks(replace(manifest, members=(first, *manifest.members))))


@pytest.mark.requirement("PROV-SPLIT-001")
def test_two_identifiers_whose_images_share_a_study_count_as_one_subject() -> None:
    """With and without its issuer an identifier gives two tokens; c shares nothing with a but by way of b."""
    one, two, three, other = (make_member(person, 1) for person in "abcd")
    source = make_member("c", 0, source=True)
    two = replace(two, origin=replace(two.origin, source_study_uid=one.origin.source_study_uid))
    two = replace(two, origin=replace(two.origin, source_series_uid=source.uid))
    members = [one, two, three, source, other]
    assert any("source study" in named for named in leaks(make_manifest(members)))
    for order in (members, members[::-1]):
        together = grouped(order)
        assert {member.uid: member.subject for member in together} == {
            member.uid: other.subject if member is other else min(token(person) for person in "abc") for member in members
        }
        assert leaks(make_manifest(together)) == ()


@pytest.mark.requirement("PROV-SPLIT-001")
def test_a_source_in_the_study_of_somebody_elses_volume_is_a_leak() -> None:
    volume, source = make_member("a", 1), make_member("b", 0, source=True)
    source = replace(source, series=(replace(source.series[0], study_uid=volume.origin.source_study_uid),))
    assert any("source study" in named for named in leaks(make_manifest([volume, source])))


def test_a_difference_names_what_came_went_changed_and_moved() -> None:
    one, two, three = make_member("a", 1), make_member("b", 1), make_member("c", 1)
    before, after = make_manifest([one, two]), make_manifest([replace(two, licence="CC BY 4.0"), three])
    found = difference(before, after)
    assert (found.added, found.removed, found.changed, found.moved) == ((three.uid,), (one.uid,), (two.uid,), ())
    moved = difference(make_manifest([one, two]), make_manifest([one, two], None)).moved
    assert {(uid, new) for uid, _, new in moved} == {(one.uid, ""), (two.uid, "")}
    assert difference(before, before).nothing


def _volumes(person: str):
    return make_member(person, 1), make_member(person, 2)


def _distinct(people):
    return list({one.uid: one for person in people for one in _volumes(person)}.values())
