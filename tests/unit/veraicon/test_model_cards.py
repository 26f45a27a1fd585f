from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from generators.cards import bundle_folder, encode_card, read_card
from provenance.cards.chai_card import to_chai_xml
from provenance.cards.markdown_card import to_markdown
from veraicon.api.app import create_app
from veraicon.cli import app
from veraicon.settings import load_settings
from veraicon.wiring import open_site

NAME = "hippocampus-t1"
CARD = read_card(bundle_folder(NAME))
CONTENT = {"markdown": to_markdown(CARD).encode(), "chai": to_chai_xml(CARD), "json": encode_card(CARD)}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("site") / "data"
    with (
        open_site(load_settings(storage={"folder": str(folder), "min_free_mib": 1})) as site,
        TestClient(create_app(site)) as one,
    ):
        yield one


@pytest.mark.requirement("PROV-CARD-004")
@pytest.mark.parametrize(
    ("asked", "accept", "form", "media_type"),
    [
        (None, "*/*", "markdown", "text/markdown"),
        (None, "application/xml", "chai", "application/xml"),
        (None, "text/markdown;q=0.1, application/json", "json", "application/json"),
        ("chai", "application/json", "chai", "application/xml"),
    ],
)
def test_a_card_is_given_in_the_form_that_a_caller_wants(client: TestClient, asked, accept, form, media_type) -> None:
    answer = client.get(f"/models/{NAME}/card", params={"format": asked} if asked else {}, headers={"Accept": accept})
    assert answer.status_code == 200
    assert answer.content == CONTENT[form]
    assert answer.headers["content-type"].startswith(media_type)


@pytest.mark.requirement("PROV-CARD-004")
def test_other_forms_and_other_models_are_refused_and_a_path_is_no_name(client: TestClient) -> None:
    assert client.get(f"/models/{NAME}/card", headers={"Accept": "image/png"}).status_code == 406
    assert client.get(f"/models/{NAME}/card", params={"format": "pdf"}).status_code == 406
    for name in ("other", "..", "%2Ftmp", str(Path(bundle_folder(NAME)).name) + "%2F."):
        assert client.get(f"/models/{name}/card").status_code == 404


@pytest.mark.requirement("PROV-CARD-004")
@pytest.mark.parametrize("form", CONTENT)
def test_the_command_line_prints_and_writes_the_same_bytes(form: str, tmp_path: Path) -> None:
    runner = CliRunner()
    assert runner.invoke(app, ["models", "card", NAME, "--format", form]).stdout_bytes == CONTENT[form]
    written = tmp_path / "card"
    assert runner.invoke(app, ["models", "card", NAME, "--format", form, "--to", str(written)]).exit_code == 0
    assert written.read_bytes() == CONTENT[form]
