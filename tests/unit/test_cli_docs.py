"""docs/cli.md and the command line say the same: no command and no option is missing, and none is invented."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from forge.cli import main

PAGE = (Path(__file__).resolve().parents[2] / "docs/cli.md").read_text()
SECTION = re.compile(r"^### (forge [a-z -]+)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--?[a-z][a-z0-9-]*")
SHARED = "## Options of many commands"
EVERYWHERE = {"--data-dir", "--url", "--token", "--json", "--help", "-h"}


def commands(group: click.Group, name: str = "forge") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that can be run, with its full name; hidden ones are left out."""
    context = click.Context(group)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")
        elif not command.hidden:
            yield f"{name} {word}", command


COMMANDS = dict(commands(main))
SECTIONS = dict(SECTION.findall(PAGE))


def options(command: click.Command) -> list[set[str]]:
    """Return the spellings of each option."""
    parameters = command.get_params(click.Context(command))
    return [set(one.opts) for one in parameters if isinstance(one, click.Option)]


def named(text: str) -> set[str]:
    """Return the options that a page names as code."""
    return {option for code in re.findall(r"`([^`]+)`", text) for option in OPTION.findall(code)}


def test_the_page_has_every_command_and_no_other() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_option_of_a_command_and_no_other(name: str) -> None:
    own = [spellings for spellings in options(COMMANDS[name]) if not spellings & EVERYWHERE]
    known = {spelling for spellings in own for spelling in spellings} | EVERYWHERE
    written = named(SECTIONS[name])

    assert not [spellings for spellings in own if not spellings & written]
    assert written <= known


def test_the_page_has_the_options_that_all_share() -> None:
    shared = PAGE.partition(SHARED)[2].partition("\n## ")[0]
    assert {spelling for spellings in options(main) for spelling in spellings} <= named(shared)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_json_and_has_help(name: str) -> None:
    command = COMMANDS[name]
    assert any("--json" in spellings for spellings in options(command))
    assert command.help
    assert all(one.help for one in command.params if isinstance(one, click.Option))


def test_every_exit_code_is_explained() -> None:
    from forge.cli.errors import ExitCode

    table = PAGE.partition("## Exit codes")[2].partition("\n## ")[0]
    assert {int(code) for code in re.findall(r"\| (\d+) \|", table)} == {int(code) for code in ExitCode}
