"""docs/legacy-compatibility.md is complete: every old path that is served has a row, every living row has a test."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from api.relay.aliases import RelayAliases
from api.relay.hooks import RelayHooks
from api.static_files import StaticFiles
from forge.old_names import OLD_NAMES
from tests.route_table import ANYTHING

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/legacy-compatibility.md").read_text()
ROW = re.compile(r"^\| (L\.\d+) \| (.*?) \| (\w+) \| (.*?) \| (.*?) ?\|$", re.MULTILINE)
ROWS = {row[0]: row for row in ROW.findall(PAGE)}
STATES = {"kept", "changed", "dropped", "deferred", "new"}
TESTED = {"kept", "changed", "new"}
RANGE = re.compile(r"L\.(\d+)(?: to L\.(\d+))?")


def old_paths() -> list[str]:
    """Return the paths of old surfaces that some route takes, as the page writes them."""
    tables = (RelayAliases(ANYTHING, ANYTHING), RelayHooks(ANYTHING, "a key"), StaticFiles(b""))
    return sorted({route.path.replace("{rest:path}", "*") for table in tables for route in table.routes()})


def named_rows() -> set[str]:
    """Return the rows that docstrings of tests name."""
    named = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "L." in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    for first, last in RANGE.findall(ast.get_docstring(node) or ""):
                        named |= {f"L.{number}" for number in range(int(first), int(last or first) + 1)}
    return named


@pytest.mark.parametrize("path", old_paths())
def test_an_old_path_that_is_served_has_a_row(path: str) -> None:
    """P8.1."""
    living = [row for row in ROWS.values() if row[2] in TESTED and re.search(rf"`(?:GET )?{re.escape(path)}`", row[1])]
    assert living, f"{path} is served: give it a row in docs/legacy-compatibility.md"


def test_rows_are_numbered_once_and_have_a_state() -> None:
    """P8.1."""
    assert len(ROWS) == PAGE.count("\n| L.")
    assert [
        number for number, times in Counter(re.findall(r"^\| (L\.\d+) ", PAGE, re.MULTILINE)).items() if times > 1
    ] == []
    assert {row[2] for row in ROWS.values()} == STATES
    assert all(row[1] and row[3] for row in ROWS.values())


def test_every_row_about_something_that_lives_is_named_by_a_test() -> None:
    """P8.1: and no test names a row that is not there."""
    named = named_rows()
    assert sorted(number for number, row in ROWS.items() if row[2] in TESTED and number not in named) == []
    assert named <= ROWS.keys()


def test_every_old_setting_that_is_warned_about_has_a_row() -> None:
    """P8.1: those of the planned successor share one."""
    for name in OLD_NAMES:
        assert f"`{name}`" in PAGE or name.startswith("PATCHWORK_"), name
