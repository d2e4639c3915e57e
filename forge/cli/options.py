"""Options that many commands share, wherever they stand on the command line."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from forge.cli.errors import invalid_settings

if TYPE_CHECKING:  # pydantic takes longer to import than `forge --help` may take
    from schemas.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Invocation:
    """What this call of `forge` was given: settings by environment name, and whether JSON is wanted."""

    given: Mapping[str, str] = field(default_factory=dict)
    json: bool = False

    def environ(self) -> dict[str, str]:
        """Return the process's environment with the options of this call over it."""
        return {**os.environ, **self.given}

    def settings(self) -> "Settings":
        """Return the settings of this call; `CliError` names each bad one."""
        from schemas.settings import InvalidSettings, Settings

        try:
            return Settings.load(self.environ())
        except InvalidSettings as error:
            raise invalid_settings(error) from error


def invocation() -> Invocation:
    """Return what the running command was given; options after the command win over those before it."""
    given = click.get_current_context().find_root().obj
    return given if isinstance(given, Invocation) else Invocation()


def give(context: click.Context, **change: Any) -> None:
    """Note options of this call: `given` is merged, `json` is set."""
    root = context.find_root()
    before = root.obj if isinstance(root.obj, Invocation) else Invocation()
    merged = {**before.given, **change.pop("given", {})}
    root.obj = replace(before, given=merged, **change)


def json_option(command: Command) -> Command:
    """Add `--json`; read it with `invocation().json`."""

    def note(context: click.Context, _: click.Parameter, wanted: bool) -> None:
        if wanted:
            give(context, json=True)

    return click.option("--json", is_flag=True, expose_value=False, callback=note, help="Print JSON, errors too.")(
        command
    )


def data_dir_option(command: Command) -> Command:
    """Add `--data-dir`, which stands for FORGE_DATA_DIR."""
    return click.option(
        "--data-dir",
        type=click.Path(file_okay=False),
        metavar="DIR",
        expose_value=False,
        callback=_note_data_dir,
        help="Where databases and the log lie (FORGE_DATA_DIR); payloads go there too, unless FORGE_CACHE_DIR is set.",
    )(command)


def _note_data_dir(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is None:
        return
    path = Path(value).absolute()
    given = {"FORGE_DATA_DIR": str(path)}
    if not os.environ.get("FORGE_CACHE_DIR", "").strip():
        given["FORGE_CACHE_DIR"] = str(path / "cache")
    give(context, given=given)


def node_options(command: Command) -> Command:
    """Add `--data-dir`, `--url` and `--token`: how a command finds a node and proves who asks."""
    command = click.option(
        "--token",
        metavar="TOKEN",
        expose_value=False,
        callback=_stands_for("FORGE_TOKEN"),
        help="Token to send (FORGE_TOKEN, which other users of the machine cannot see).",
    )(command)
    command = click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_stands_for("FORGE_URL"),
        help="Address of the node (FORGE_URL); the local node's by default.",
    )(command)
    return data_dir_option(command)


def _stands_for(name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def note(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            give(context, given={name: value})

    return note
