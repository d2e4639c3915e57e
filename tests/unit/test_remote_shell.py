"""The example of a remote shell lets through what its list names, and nothing that only looks like it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "examples/remote_shell.py"


@pytest.fixture(scope="module")
def shell() -> ModuleType:
    spec = importlib.util.spec_from_file_location("remote_shell", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("wanted", "allowed"),
    [
        (["uptime"], True),
        (["df", "-h"], True),
        (["cat", "/etc/hostname"], True),
        (["cat", "a; rm -rf ~"], True),  # one argument, and no shell that would read it
        (["cat", "--help"], False),
        (["cat"], False),
        (["cat", "a", "b"], False),
        (["df"], False),
        (["uptime", "-p"], False),
        (["UPTIME"], False),
        ([], False),
    ],
)
def test_only_what_is_listed_is_allowed(shell: ModuleType, wanted: list[str], allowed: bool) -> None:
    assert shell.is_allowed(wanted, [["uptime"], ["df", "-h"], ["cat", "{}"]]) is allowed


@pytest.mark.parametrize(
    "body", [b"", b"uptime", b"[]", b'["a", 1]', b'{"a": 1}', b'["a\\u0000b"]', b"\xff", b'"uptime"']
)
def test_what_is_no_command_is_none(shell: ModuleType, body: bytes) -> None:
    assert shell.parse_command(body) is None


@pytest.mark.parametrize("do", ["serve", "run"])
def test_who_cannot_be_served_hears_why_in_a_line(do: str) -> None:
    known = {"FORGE_URL": "", "FORGE_TOKEN": "forge_x"}
    done = subprocess.run(
        [sys.executable, PATH, do, "uptime"], env=os.environ | known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("remote_shell.py: error: FORGE_URL")


def test_a_node_that_is_away_is_no_traceback() -> None:
    known = {"FORGE_URL": "http://127.0.0.1:1", "FORGE_TOKEN": "forge_x", "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, PATH, "run", "uptime"], env=os.environ | known, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("remote_shell.py: ")
    assert "Traceback" not in done.stderr
