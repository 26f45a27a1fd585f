"""What a replay may be told: a device and a number of threads within the limits of a site's settings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from domain.errors import ConfigurationError, ReplayImpossible, RequestInvalid
from generators.cards import bundle_folder, read_card
from veraicon.replay.options import ReplayOptions, settings_of
from veraicon.replay.subject import Subject
from veraicon.settings import load_settings

_DIGEST = read_card(bundle_folder("hippocampus-t1")).weights_digest
_CLAIMS = {("environment", "threads"): "2", ("model", "weightsDigest"): _DIGEST}
_SUBJECT = cast("Subject", SimpleNamespace(claim=lambda *names: _CLAIMS[names]))


@pytest.mark.requirement("PROV-REPLAY-002")
@pytest.mark.parametrize(
    ("options", "refusal", "named"),
    [
        ({"device": "foo"}, RequestInvalid, "device 'foo'"),
        ({"device": ""}, RequestInvalid, "device ''"),
        ({"threads": 1_000_000}, RequestInvalid, "threads '1000000'"),
        ({"device": "cuda:99"}, ReplayImpossible, "no device cuda:99"),
    ],
)
def test_a_device_or_thread_count_that_no_site_could_have_is_named(
    options: dict[str, Any], refusal: type[Exception], named: str
) -> None:
    with pytest.raises(refusal, match=named):
        settings_of(_SUBJECT, load_settings(), ReplayOptions(**options))


def test_attested_threads_and_weights_stand_above_the_sites_settings() -> None:
    used = settings_of(_SUBJECT, load_settings(generation={"threads": 7, "guidance": 2.0}), ReplayOptions()).generation
    assert (used.threads, used.guidance, used.device, used.model) == (2, 2.0, "cpu", "hippocampus-t1")
    with pytest.raises(ConfigurationError, match=r"generation\.device"):
        load_settings(generation={"device": "foo"})
