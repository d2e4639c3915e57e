"""What the repository promises about itself: pinned, explained, linked, small, and layered."""

import ast
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.metrics import declared

ROOT = Path(__file__).resolve().parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-bench.lock")
LOCKED = re.compile(r"^([a-z0-9._-]+)==(\S+) \\$", re.MULTILINE)
DEPENDENCY_ROW = re.compile(r"^\| `([A-Za-z0-9_.-]+)` \| (.+?) \|", re.MULTILINE)
TOP_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md")
PAGES = [*(ROOT / name for name in TOP_PAGES), *sorted((ROOT / "docs").rglob("*.md"))]
NAMED_FILE = re.compile(r"`((?:schemas|events|projectors|api|workers|forge|tests|benchmarks|examples)/[\w/]+\.\w+)`")
LINK = re.compile(r"\]\(([^)#]+\.md)(?:#[^)]*)?\)")

MAY_IMPORT = {
    "schemas": {"schemas"},
    "events": {"schemas", "events"},
    "projectors": {"schemas", "events", "projectors"},
    "api": {"schemas", "events", "projectors", "api"},
    "workers": {"schemas", "events", "projectors", "workers"},
    "forge": {"schemas", "events", "projectors", "api", "workers", "forge"},
}
LINES_MAX = 300
TEST_LINES_MAX = 400
LONG_FILES = {
    "api/connection.py": "one state machine of one connection; its states are read together",
    "schemas/problems.py": "one catalogue, in which every problem is found",
    "tests/integration/test_http_server.py": "one table of limits against one running server",
}
"""Files over the limit, each with the reason why it is not split."""


def direct_dependencies() -> set[str]:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["dev"], *extras["bench"], *PROJECT["build-system"]["requires"]]
    return {re.split(r"[\[<>=!~ ]", line, maxsplit=1)[0] for line in wanted}


def locked(lock: str) -> dict[str, str]:
    return dict(LOCKED.findall((ROOT / lock).read_text()))


def python_files(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imported_rooms(source: str) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.split(".")[0] for name in names} & MAY_IMPORT.keys()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host(lock: str) -> None:
    """Whoever installs decides where from; a lock says only what."""
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=sha256:[0-9a-f]{64})", text, re.MULTILINE)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes(lock: str) -> None:
    blocks = re.split(r"\n(?=[a-z0-9])", (ROOT / lock).read_text().split("\n\n")[0])
    packages = [block for block in blocks if re.match(r"[a-z0-9]", block)]
    assert len(packages) >= 20
    for block in packages:
        assert "--hash=sha256:" in block, block.splitlines()[0]


def test_the_locks_agree_and_hold_every_direct_dependency() -> None:
    runtime, dev, bench = (locked(lock) for lock in LOCKS)
    assert runtime.items() <= dev.items()
    assert runtime.items() <= bench.items()
    everything = bench | dev
    assert bench.items() <= everything.items()
    assert {name.lower().replace("_", "-") for name in direct_dependencies()} <= everything.keys()


def test_every_dependency_has_its_reason() -> None:
    rows = dict(DEPENDENCY_ROW.findall((ROOT / "docs/decisions/dependencies.md").read_text()))
    assert rows.keys() == direct_dependencies()
    assert all(len(reason) > 20 for reason in rows.values())


def test_every_page_is_reachable_from_the_index() -> None:
    docs = ROOT / "docs"
    seen: set[Path] = set()
    to_read = [docs / "index.md"]
    while to_read:
        page = to_read.pop()
        if page not in seen:
            seen.add(page)
            to_read += [(page.parent / link).resolve() for link in LINK.findall(page.read_text()) if "://" not in link]
    unlinked = {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {
        str(page.relative_to(docs)) for page in seen if page.is_relative_to(docs)
    }
    assert not unlinked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_between_pages_is_dead(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        assert "://" in link or (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_file_that_a_page_names_exists(page: Path) -> None:
    for path in NAMED_FILE.findall(page.read_text()):
        assert (ROOT / path).exists(), f"{page.relative_to(ROOT)} names {path}"


def test_every_metric_is_told_to_operators() -> None:
    """And no other one, under the name that `/metrics` gives it: counters end in `_total`."""
    table = (ROOT / "docs/operations.md").read_text().partition("## Metrics")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `forge_")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(declared())


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_page_that_an_error_names_exists(room: str) -> None:
    """The fourth line of an error says where to read on."""
    for path in python_files(room):
        for page in re.findall(r"\bdocs/[a-z/-]+\.md\b", path.read_text()):
            assert (ROOT / page).exists(), f"{path.relative_to(ROOT)} names {page}"


@pytest.mark.parametrize("room", [*MAY_IMPORT, "tests", "benchmarks", "examples"])
def test_no_file_is_long_without_a_reason(room: str) -> None:
    limit = LINES_MAX if room in MAY_IMPORT else TEST_LINES_MAX
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in python_files(room)}
    too_long = {name: lines for name, lines in lengths.items() if lines > limit and name not in LONG_FILES}
    assert not too_long


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_room_only_looks_down(room: str) -> None:
    for path in python_files(room):
        upward = imported_rooms(path.read_text()) - MAY_IMPORT[room]
        assert not upward, f"{path.relative_to(ROOT)} imports {upward}"


def test_the_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(v for v in versions if v != "Unreleased") == PROJECT["project"]["version"]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"`?make ([a-z-]+)`", (ROOT / page).read_text()))
        assert named <= targets


def test_no_room_has_a_file_named_after_nothing() -> None:
    """`utils.py` and the like say nothing about what they hold."""
    nameless = {"utils.py", "helpers.py", "common.py", "misc.py", "manager.py", "base.py"}
    assert not [path for room in MAY_IMPORT for path in python_files(room) if path.name in nameless]
