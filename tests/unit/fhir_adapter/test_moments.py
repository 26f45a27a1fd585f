from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_adapter.moments import end_of_period, parse_moment, start_of_period

SCANS = st.datetimes(min_value=datetime(1901, 1, 2), max_value=datetime(2099, 12, 30)).map(lambda at: at.replace(tzinfo=UTC))
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(SCANS, st.integers(-(10**6), 10**6), ZONES)
def test_a_time_counts_exactly_if_it_is_not_after_the_imaging_time(scan, seconds, zone):
    stated = (scan + timedelta(seconds=seconds)).astimezone(zone).replace(microsecond=0)
    moment = parse_moment(stated.isoformat(timespec="seconds"), UTC)
    assert moment.known_by(scan.replace(microsecond=0)) == (seconds <= 0)


@given(SCANS, st.integers(-400, 400), ZONES)
def test_a_day_counts_exactly_if_it_is_not_after_the_imaging_day_of_the_imaging_zone(scan, days, zone):
    local = scan.astimezone(zone)
    day = local.date() + timedelta(days=days)
    assert parse_moment(day.isoformat(), local.tzinfo).known_by(local) == (days <= 0)


@given(SCANS, st.dates(min_value=date(1901, 1, 1), max_value=date(2099, 12, 31)))
def test_a_less_precise_date_never_counts_where_the_precise_one_does_not(scan, day):
    full, month, year = day.isoformat(), day.isoformat()[:7], day.isoformat()[:4]
    known = [parse_moment(text, UTC).known_by(scan) for text in (year, month, full)]
    assert known == sorted(known)


def test_a_month_counts_on_its_last_day():
    assert parse_moment("2020-02", UTC).known_by(datetime(2020, 2, 29, tzinfo=UTC))
    assert not parse_moment("2020-02", UTC).known_by(datetime(2020, 2, 28, 23, 59, tzinfo=UTC))


@pytest.mark.parametrize(
    "text",
    [
        "2020-3-1",
        "20",
        "2020-13",
        "2021-02-29",
        "2020-03-01T10:00",
        "2020-03-01T10:00:00",
        "01/03/2020",
        "\N{FULLWIDTH DIGIT TWO}020",
        "0000",
        "",
        2020,
        None,
    ],
)
def test_refuses_what_is_no_fhir_date(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_moment(text, UTC)


def test_a_leap_second_can_be_read():
    assert parse_moment("2016-12-31T23:59:60Z", UTC).start == datetime(2016, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_period_counts_by_its_end_or_by_its_start_while_it_runs():
    closed, running = {"start": "2020-01-01", "end": "2020-02-01"}, {"start": "2020-01-01"}
    assert end_of_period(closed, UTC) == parse_moment("2020-02-01", UTC)
    assert end_of_period(running, UTC) == start_of_period(closed, UTC) == parse_moment("2020-01-01", UTC)
