"""Each requirement has its clause and its test, and each test names requirements that exist. Read from the sources: nothing runs."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Programs and libraries of others, and the module that a test has to reach where it speaks with one.
PEERS = {
    "DCMTK": "tests.peers.dcmtk",
    "Orthanc": "tests.peers.orthanc",
    "dicom3tools": "tests.peers.dicom3tools",
    "FHIR validators": "tests.peers.fhir_validators",
    "sekmet": "tests.peers.sekmet",
    "dicomweb-client": "dicomweb_client",
    "highdicom": "highdicom",
    "BIDS validator": "tests.peers.bids_validator",
    "mlcroissant": "tests.peers.croissant",
    "hl7": "tests.peers.hl7v2",
}
KEYS = {"sentence", "clause", "check", "peers", "review"}


@dataclass(frozen=True)
class MarkedTest:
    """A test with a requirement marker.

    Attributes
    ----------
    ids : tuple of str
        What it says that it shows.
    modules : frozenset of str
        What it and the helpers and fixtures of its file take from elsewhere.
    """

    name: str
    ids: tuple[str, ...]
    modules: frozenset[str]


def requirements() -> dict[str, dict[str, Any]]:
    return tomllib.loads((ROOT / "conformance" / "requirements.toml").read_text(encoding="utf-8"))


@cache
def marked_tests() -> tuple[MarkedTest, ...]:
    files = [*(ROOT / "tests").rglob("test_*.py"), *(ROOT / "conformance").glob("test_*.py")]
    return tuple(test for path in sorted(files) for test in marked_in(path.relative_to(ROOT), path.read_text(encoding="utf-8")))


def marked_in(path: Path, source: str) -> Iterator[MarkedTest]:
    """Yield the marked tests of one file."""
    tree = ast.parse(source)
    origins = dict(imported(tree))
    uses = {name: names_in(node) for node in tree.body for name in defined(node)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    for node in functions:
        ids = tuple(identifier for mark in node.decorator_list for identifier in marked(mark, path))
        if ids:
            assert node.name.startswith("test_"), f"{path}: a marker on {node.name}, which is no test"
            reached = reachable(names_in(node), uses)
            yield MarkedTest(f"{path}::{node.name}", ids, frozenset(origins[name] for name in reached if name in origins))


def marked(decorator: ast.expr, path: Path) -> Iterator[str]:
    if not isinstance(decorator, ast.Call) or ast.unparse(decorator.func) != "pytest.mark.requirement":
        return
    assert decorator.args, f"{path}: a requirement marker without an id"
    for argument in decorator.args:
        assert isinstance(argument, ast.Constant), f"{path}: a requirement marker with something else than plain ids"
        yield str(argument.value)


def imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((alias.asname or alias.name, node.module) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name.partition(".")[0], alias.name) for alias in node.names)


def defined(node: ast.stmt) -> tuple[str, ...]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return tuple(target.id for target in targets if isinstance(target, ast.Name))
    return ()


def names_in(node: ast.AST) -> frozenset[str]:
    """Names that a piece of code reads, those of fixtures too: among its parameters, or asked for by ``getfixturevalue``."""
    read = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    read |= {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
    calls = [one for one in ast.walk(node) if isinstance(one, ast.Call) and ast.unparse(one.func).endswith("getfixturevalue")]
    return frozenset(read | {str(one.value) for call in calls for one in call.args if isinstance(one, ast.Constant)})


def reachable(names: frozenset[str], uses: Mapping[str, frozenset[str]]) -> frozenset[str]:
    reached, waiting = set(names), list(names)
    while waiting:
        new = uses.get(waiting.pop(), frozenset()) - reached
        reached |= new
        waiting += new
    return frozenset(reached)


def test_every_requirement_is_complete() -> None:
    for identifier, requirement in requirements().items():
        assert re.fullmatch(r"[A-Z][A-Z0-9]*-[A-Z]+-\d{3}", identifier), identifier
        assert set(requirement) <= KEYS, f"{identifier}: {set(requirement) - KEYS}"
        assert requirement.get("sentence", "").endswith("."), f"{identifier} has no sentence"
        assert re.search(r"PS3\.\d+ |FHIR R4 |RFC \d+|HL7 ", requirement.get("clause", "")), f"{identifier} has no clause"
        assert requirement.get("check") in ("test", "review"), f"{identifier} has no check"
        assert ("review" in requirement) == (requirement["check"] == "review"), f"{identifier}: who reviews what?"
        assert set(requirement.get("peers", [])) <= set(PEERS), f"{identifier} names an unknown peer"


def test_every_requirement_has_the_test_that_it_asks_for() -> None:
    shown = {identifier for test in marked_tests() for identifier in test.ids}
    asked = {identifier for identifier, requirement in requirements().items() if requirement["check"] == "test"}
    assert sorted(asked - shown) == [], "requirements without a test: mark one, or write it"
    reviewed = set(requirements()) - asked
    assert sorted(reviewed & shown) == [], "requirements that a test shows are no longer for review alone"


def test_every_marker_names_a_requirement() -> None:
    known = set(requirements())
    unknown = {test.name: sorted(set(test.ids) - known) for test in marked_tests() if set(test.ids) - known}
    assert unknown == {}


def test_every_peer_of_a_requirement_is_spoken_with_by_one_of_its_tests() -> None:
    claimed = {(identifier, peer) for identifier, one in requirements().items() for peer in one.get("peers", [])}
    shown = {
        (identifier, peer)
        for test in marked_tests()
        for peer, module in PEERS.items()
        if any(used == module or used.startswith(f"{module}.") for used in test.modules)
        for identifier in test.ids
    }
    assert sorted(claimed - shown) == []


def test_a_gap_is_seen() -> None:
    source = (
        "import pytest\nfrom tests.peers.orthanc import running_orthanc as pacs\n"
        "@pytest.fixture\ndef peer():\n    yield pacs()\n"
        "class TestGroup:\n    @pytest.mark.requirement('A-B-001', 'A-B-002')\n    def test_one(self, peer): ...\n"
        "@pytest.mark.requirement('A-B-003')\ndef test_two(): ...\ndef test_three(): ...\n"
    )
    one, two = sorted(marked_in(Path("test_it.py"), source), key=lambda test: test.ids)
    assert (one.name, one.ids, "tests.peers.orthanc" in one.modules) == ("test_it.py::test_one", ("A-B-001", "A-B-002"), True)
    assert (two.ids, "tests.peers.orthanc" in two.modules) == (("A-B-003",), False)


@pytest.mark.parametrize(
    "marker", ["@pytest.mark.requirement()", "@pytest.mark.requirement(NAME)", "@pytest.mark.requirement(*IDS)"]
)
def test_a_marker_that_cannot_be_read_from_the_source_is_refused(marker: str) -> None:
    with pytest.raises(AssertionError, match="requirement marker"):
        list(marked_in(Path("test_it.py"), f"import pytest\n{marker}\ndef test_one(): ...\n"))
