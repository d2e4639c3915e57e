"""`forge snapshot` as scripts see it: exit codes, JSON, tags, and what stands in the way."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from forge.cli import Forge, main
from forge.ingest.digest import FileChanged
from forge.snapshot.reading import has_no_tags, why_passed_over, write_tags

assert isinstance(main, Forge)
FORGE: Forge = main
CHANGING = "/proc/sys/kernel/random"
"""A folder of files that are never as large as they say, as one is that grows."""


class Command:
    """`forge` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Return the exit code, and what was printed."""
        code = FORGE.run([*arguments])
        out, err = self._capsys.readouterr()
        return code, out, err

    def json(self, *arguments: str) -> Any:
        """Return what was printed as JSON by a command that succeeded."""
        code, out, err = self(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)


@pytest.fixture
def forge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command with a data directory of its own."""
    for name in [name for name in os.environ if name.startswith("FORGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FORGE_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("FORGE_CACHE_DIR", str(tmp_path / "cache"))
    return Command(capsys)


def test_a_script_hears_that_something_was_left_out(forge: Command) -> None:
    """Spec 74, 75, 86: 2 with warnings, 1 for a failure that leaves nothing; one dash and the short name do as well."""
    code, out, err = forge("snap", "create", CHANGING)
    strict, _, why = forge("snapshot", "create", "-strict", CHANGING)
    history = forge.json("snapshot", "history", CHANGING)
    nothing, _, _ = forge("snapshot", "diff", CHANGING)

    assert (code, strict, nothing) == (2, 1, 3)
    assert "0 files" in out
    assert f"warning: left out: {CHANGING}/boot_id: file changed while it was read" in err
    assert "file changed" in why
    assert len(history) == 1


def test_entries_are_listed_and_found_by_tags(forge: Command, tmp_path: Path) -> None:
    """Spec 79, 80."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    for name, tags in (("a.txt", ("music", "work")), ("below/b.txt", ("work",))):
        (root / name).write_text(name)
        assert write_tags(bytes(root / name), tags)
    tree = forge.json("snapshot", "create", str(root))["hash"]

    listed = forge.json("snapshot", "inspect", "-tree", tree)
    everything = forge.json("snapshot", "inspect", "--tree", tree, "--recursive")
    found = forge.json("snapshot", "query", "-tree", tree, "-tags", "work;music")
    both = forge.json("snapshot", "query", "--tree", tree, "--tags", "work")
    unknown, _, why = forge("snapshot", "inspect", "--tree", "0" * 64)

    assert (listed["entry_count"], everything["entry_count"]) == (2, 3)
    assert (found["match_count"], found["matches"][0]["path"]) == (1, "a.txt")
    assert [one["path"] for one in both["matches"]] == ["a.txt", "below/b.txt"]
    assert (unknown, "there is no such tree" in why) == (3, True)


def test_a_log_that_is_archived_is_not_written_by_a_command_alone(
    forge: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PR3: who may write it is known only to what holds the writer lease."""
    for name, value in (("BUCKET", "b"), ("ENDPOINT_URL", "http://127.0.0.1:9"), ("ACCESS_KEY_ID", "a")):
        monkeypatch.setenv(f"FORGE_S3_{name}", value)
    monkeypatch.setenv("FORGE_S3_SECRET_ACCESS_KEY", "s")
    (tmp_path / "root").mkdir()

    code, _, why = forge("snapshot", "create", str(tmp_path / "root"))

    assert code == 6
    assert "forge replicate daemon" in why


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM])
def test_a_path_that_cannot_be_read_is_passed_over(number: int) -> None:
    """Spec 84."""
    assert why_passed_over(OSError(number, os.strerror(number)))


def test_what_a_disk_refuses_is_a_failure() -> None:
    """Spec 83, 84: also where tags are read."""
    assert why_passed_over(FileChanged())
    assert why_passed_over(OSError(errno.EIO, "Input/output error")) is None
    assert all(has_no_tags(OSError(number, "")) for number in (errno.ENODATA, errno.ENOENT, errno.EPERM))
    assert not has_no_tags(OSError(errno.EIO, "Input/output error"))
