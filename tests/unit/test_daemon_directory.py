"""Commands for a node on the data directory of `forge replicate daemon`, which answers no requests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from forge.cli import main
from forge.cli.errors import ExitCode
from forge.datadir import DataDir
from forge.local_node import target
from schemas.machine_token import format_token

TOKEN = format_token(b"d" * 32)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """A data directory on which a daemon runs, with the root token that it has as every data directory."""
    with DataDir.open(tmp_path) as data:
        data.publish("", "daemon1")
        (tmp_path / "root.token").write_text(TOKEN)
        (tmp_path / "root.token").chmod(0o600)
        yield tmp_path


def test_the_root_token_of_a_daemon_goes_nowhere(daemon: Path) -> None:
    """PR6: it has no address, and the address that stands in for none is not its own."""
    assert target(daemon, "", "") == ("", "")


@pytest.mark.parametrize("command", [["status"], ["db", "list"], ["replicate", "generation"], ["healthcheck"]])
def test_a_command_says_what_runs_there_and_what_to_call(daemon: Path, command: list[str]) -> None:
    done = CliRunner().invoke(main, [*command, "--data-dir", str(daemon)], env={"FORGE_URL": "", "FORGE_TOKEN": ""})
    assert done.exit_code == ExitCode.NOT_READY
    assert f"on {daemon} runs `forge replicate daemon`" in done.stderr
    assert "`forge replicate status` says" in done.stderr
    assert "forge up" not in done.stderr


def test_the_doctor_does_not_ask_to_start_a_node_there(daemon: Path) -> None:
    done = CliRunner().invoke(main, ["doctor", "--data-dir", str(daemon)], env={"FORGE_URL": "", "FORGE_TOKEN": ""})
    (line,) = [line for line in done.stdout.splitlines() if line.split()[1] == "node"]
    assert "forge replicate status" in line
    assert "forge up" not in line
