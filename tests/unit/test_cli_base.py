"""The command line as a whole: help, errors in four lines, exit codes, shared options."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from forge.cli import COMMANDS, main
from forge.cli.errors import CliError, ExitCode, from_client_error, masked
from forge.cli.options import invocation, json_option, node_options
from forge.client.errors import ForgeError, NodeUnreachable

FORGE = Path(sys.executable).with_name("forge")
HEAVY = ("pydantic", "httpx2", "numpy", "rich", "structlog", "starlette", "apsw", "nats", "asyncio")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """A command `probe` that prints its settings, or raises what the test puts into the list."""
    raised: list[BaseException | None] = [None]

    @click.command()
    @node_options
    @json_option
    def probe() -> None:
        if raised[0]:
            raise raised[0]
        settings = invocation().settings()
        click.echo(json.dumps([settings.url, settings.token.get_secret_value(), str(settings.data_dir)]))

    module = type(sys)("probe_command")
    vars(module)["probe"] = probe
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setitem(COMMANDS, "probe", ("probe_command:probe", "Print settings."))
    return raised


def lines_of(stderr: str) -> dict[str, str]:
    return {name: text.strip() for name, _, text in (line.partition(":") for line in stderr.splitlines())}


@pytest.mark.parametrize("place", COMMANDS)
def test_every_command_can_be_loaded_and_has_help(place: str) -> None:
    module, _, attribute = COMMANDS[place][0].partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    result = CliRunner().invoke(main, [place, "--help"])
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")


def test_help_loads_nothing_heavy() -> None:
    """Help and completion answer while a person waits for them."""
    code = "import sys; from forge.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)
    assert not set(HEAVY) & set(done.stdout.split())


def test_no_command_prints_help_and_succeeds() -> None:
    result = CliRunner().invoke(main, [])
    assert result.exit_code == 0
    assert "Commands:" in result.stdout


@pytest.mark.parametrize(("typed", "meant"), [("vectr", "vector"), ("stauts", "status"), ("--jsn", "--json")])
def test_a_misspelt_word_gets_the_nearest_one(typed: str, meant: str) -> None:
    result = CliRunner().invoke(main, [typed])
    assert result.exit_code == ExitCode.USAGE
    assert list(lines_of(result.stderr)) == ["what", "why", "fix", "more"]
    assert meant in lines_of(result.stderr)["fix"]


def test_an_error_has_four_lines_whatever_is_in_it(command: list[BaseException | None]) -> None:
    """Also the answer of a hostile server, which may hold line ends and terminal codes."""
    command[0] = CliError("a\nb", "c\x1b[31m\rd", "e", "http://u:p@h/", ExitCode.CONFLICT)
    result = CliRunner().invoke(main, ["probe"])
    assert result.stderr == "what: a b\nwhy:  c [31m d\nfix:  e\nmore: http://***@h/\n"
    assert result.exit_code == ExitCode.CONFLICT


@pytest.mark.parametrize("arguments", [["--json", "probe"], ["probe", "--json"]])
def test_an_error_is_json_where_json_was_asked_for(command: list[BaseException | None], arguments: list[str]) -> None:
    command[0] = CliError("w", "y", "f", "m", ExitCode.DATA_FAULT)
    result = CliRunner().invoke(main, arguments)
    assert json.loads(result.stderr) == {"what": "w", "why": "y", "fix": "f", "more": "m", "exit_code": 7}
    assert result.stdout == ""


def test_a_usage_error_is_json_too() -> None:
    result = CliRunner().invoke(main, ["nothing", "--json"])
    assert json.loads(result.stderr)["exit_code"] == ExitCode.USAGE


def test_a_bug_shows_no_traceback_unless_asked(
    command: list[BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    command[0] = RuntimeError("broken")
    result = CliRunner().invoke(main, ["probe"])
    assert result.exit_code == ExitCode.FAILURE
    assert "RuntimeError: broken" in lines_of(result.stderr)["why"]
    assert "FORGE_DEBUG=1" in lines_of(result.stderr)["fix"]
    monkeypatch.setenv("FORGE_DEBUG", "1")
    assert isinstance(CliRunner().invoke(main, ["probe"]).exception, RuntimeError)


def test_an_interrupt_ends_with_130(command: list[BaseException | None]) -> None:
    command[0] = KeyboardInterrupt()
    assert CliRunner().invoke(main, ["probe"]).exit_code == ExitCode.INTERRUPTED


def test_a_reader_that_leaves_is_no_error() -> None:
    """`forge ... | head` must stay quiet."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([FORGE, "completion", "bash"], stdout=write, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(write)
    assert done.returncode == ExitCode.BROKEN_PIPE
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (400, 2), (429, 6), (503, 6), (500, 1)]
)
def test_a_refusal_of_the_node_becomes_its_exit_code(status: int, code: int) -> None:
    error = from_client_error(ForgeError(status, "urn:x", "no", "because", request_id="r1"))
    assert error.exit_code == code
    assert "because" in error.why
    assert "r1" in error.more


def test_an_unreachable_node_says_how_to_start_one(command: list[BaseException | None]) -> None:
    command[0] = NodeUnreachable("http://u:p@127.0.0.1:1", "connection refused")
    result = CliRunner().invoke(main, ["probe"])
    assert result.exit_code == ExitCode.NOT_READY
    assert "forge up" in lines_of(result.stderr)["fix"]
    assert "u:p" not in result.stderr


def test_options_stand_before_or_after_the_command(command: list[BaseException | None], tmp_path: Path) -> None:
    before = ["--url", "http://one", "--token", "t1", "--data-dir", str(tmp_path), "probe"]
    after = ["probe", "--url", "http://one", "--token", "t1", "--data-dir", str(tmp_path)]
    for arguments in (before, after, ["--url", "http://zero", *after]):
        result = CliRunner().invoke(main, arguments, env={"FORGE_URL": "http://environment"})
        assert json.loads(result.stdout) == ["http://one", "t1", str(tmp_path)]


def test_the_environment_is_used_where_no_option_is_given(command: list[BaseException | None]) -> None:
    result = CliRunner().invoke(main, ["probe"], env={"FORGE_URL": "http://e", "FORGE_TOKEN": "t"})
    assert json.loads(result.stdout)[:2] == ["http://e", "t"]


def test_a_bad_setting_is_a_usage_error_that_names_it(command: list[BaseException | None]) -> None:
    result = CliRunner().invoke(main, ["probe"], env={"MAX_JOB_ATTEMPTS": "0"})
    assert result.exit_code == ExitCode.USAGE
    assert "MAX_JOB_ATTEMPTS must be > 0" in lines_of(result.stderr)["why"]


def test_credentials_in_addresses_are_masked() -> None:
    assert masked("nats://a:b@h:1,nats://c:d@i:2 x") == "nats://***@h:1,nats://***@i:2 x"
    assert masked("mail a@b, http://h/p@q") == "mail a@b, http://h/p@q"
