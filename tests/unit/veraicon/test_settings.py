from __future__ import annotations

import tomllib
from pathlib import Path
from typing import get_origin

import pytest

from domain.errors import ConfigurationError
from veraicon.settings import Settings, example_toml, load_settings


def _write(folder: Path, text: str) -> Path:
    path = folder / "veraicon.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_example_file_with_every_line_in_force_means_the_defaults(tmp_path: Path) -> None:
    lines = [
        line.removeprefix("# ")
        for line in example_toml().splitlines()
        if (line.startswith("# ") and " = " in line) or line[:1] == "["
    ]
    peers = [number for number, line in enumerate(lines) if line == 'name = ""  # how we call it']
    text = "\n".join(lines[: peers[0]])  # the peers that follow are examples without defaults
    assert load_settings(_write(tmp_path, text)) == load_settings(_write(tmp_path, ""))
    tables = {name for name, field in Settings.model_fields.items() if get_origin(field.annotation) is tuple}
    assert set(tomllib.loads(text)) == set(Settings.model_fields) - tables


@pytest.mark.parametrize(
    ("text", "named", "allowed"),
    [
        ("[node]\nprot = 1\n", "node.prot", "ae_title"),
        ("[nod]\nport = 1\n", "nod", "node"),
        ("[node]\nport = 70000\n", "node.port", ""),
        ('[node]\nae_title = "A TITLE THAT IS TOO LONG"\n', "node.ae_title", ""),
        ('[[destinations]]\nname = "a"\nae_title = "A"\nhost = "h"\n', "destinations.0.port", ""),
        ('[[dicomweb]]\nname = "a"\nurl = "ftp://h"\n', "dicomweb.0.url", ""),
        (
            '[[dicomweb]]\nname = "a"\nurl = "http://h"\n[[destinations]]\nname = "a"\nae_title = "A"\nhost = "h"\nport = 104\n',
            "two peers have one name",
            "",
        ),
        ('[pairing]\ntimezone = "Europe/Nowhere"\n', "pairing.timezone", ""),
        ('[pairing]\naccept = ["accession"]\n', "accession_system is empty", ""),
        ('[publication]\nimage = "modern"\n', "publication.image", ""),
        ("[generation]\nguidance = { weather = 2.0 }\n", "generation.guidance", ""),
        ("[generation]\nguidance = { report = 0.5 }\n", "generation.guidance", ""),
        ("not toml", "veraicon.toml", "config example"),
        ('[http]\nhost = "0.0.0.0"\n', "http.token", ""),
    ],
)
def test_refuses_a_wrong_file_and_names_the_key(tmp_path: Path, text: str, named: str, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(_write(tmp_path, text))
    assert named in refused.value.found
    assert allowed in refused.value.allowed


def test_guidance_may_have_a_weight_for_each_modality(tmp_path: Path) -> None:
    weights = load_settings(
        _write(tmp_path, "[generation]\nguidance = { prior-image = 2.0, report = 1 }\n")
    ).generation.guidance
    assert weights == {"prior-image": 2.0, "report": 1.0}
    assert load_settings(_write(tmp_path, "[generation]\nguidance = 3\n")).generation.guidance == 3


def test_a_refused_secret_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_settings(_write(tmp_path, '[http]\ntoken = ["hunter2-canary"]\n'))
    assert "hunter2-canary" not in str(refused.value)


def test_environment_stands_above_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERAICON_NODE__PORT", "4242")
    settings = load_settings(_write(tmp_path, '[node]\nport = 1\nae_title = "FILE"\n'))
    assert (settings.node.port, settings.node.ae_title) == (4242, "FILE")


def test_refuses_an_environment_variable_of_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERAICON_NOD__PORT", "4242")
    with pytest.raises(ConfigurationError, match="VERAICON_NOD__PORT"):
        load_settings(_write(tmp_path, ""))
