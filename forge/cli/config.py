"""`forge config`: every setting, its value, and where it came from."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches

import click
from pydantic import SecretStr

from forge.cli.errors import CliError, ExitCode, masked
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, table
from schemas.settings import InvalidSettings, Settings

HIDDEN = "***"
OPTIONS = {"FORGE_DATA_DIR": "--data-dir", "FORGE_URL": "--url", "FORGE_TOKEN": "--token"}
NO_SETTINGS = {"FORGE_DEBUG"}


@dataclass(frozen=True, slots=True)
class Line:
    """One setting as it is now; `problem` is empty unless its value cannot be used."""

    name: str
    variable: str
    value: str
    source: str
    problem: str = ""


@click.group()
def config() -> None:
    """Show the settings and where they come from."""


@config.command()
@data_dir_option
@json_option
def show() -> None:
    """Print every setting, its value and its source; secrets are masked.

    Succeeds with invalid values too, and names them.
    """
    given = invocation()
    environ = given.environ()
    lines = settings_lines(environ, given.given)
    unknown = unknown_variables(environ)
    problems = [line.problem for line in lines if line.problem]
    text = [table(("SETTING", "VALUE", "FROM"), [(line.variable, line.value, line.source) for line in lines])]
    text += [f"problem: {problem}" for problem in problems]
    text += [f"note: {note}" for note in unknown]
    emit(
        {"settings": [asdict(line) for line in lines], "problems": problems, "notes": unknown},
        "\n".join(text),
        as_json=given.json,
    )


@config.command()
@data_dir_option
@json_option
def nats() -> None:
    """Print the NATS address for programs that send commands to the node on the data directory.

    It holds a password of the NATS server, which opens nothing by itself: each command carries a token.
    """
    from forge.datadir import read_runtime

    given = invocation()
    here = read_runtime(given.settings().data_dir)
    if here is None or not here.client_url:
        raise CliError(
            "finding the NATS server",
            "no node with a NATS server of its own runs on the data directory",
            "start one with `forge up`; of your own servers you know the address: they need a user that may publish "
            "to forge.cmd.> and subscribe to _INBOX_client.>",
            "docs/messages.md",
            ExitCode.NOT_READY,
        )
    emit({"nats_url": here.client_url}, here.client_url, as_json=given.json)


@config.command(hidden=True)
def page() -> None:
    """Print docs/configuration.md."""
    click.echo(settings_page(), nl=False)


def settings_lines(environ: Mapping[str, str], options: Mapping[str, str]) -> list[Line]:
    """Return a line per setting; `options` are those of `environ` that came from the command line."""
    problems = _problems(environ)
    usable = {name: value for name, value in environ.items() if name not in _names_of(problems)}
    settings = Settings.load(usable)
    lines = []
    for field in Settings.model_fields:
        source = Settings.source(field, environ)
        problem = problems.get(field, "")
        value = environ[source].strip() if problem else getattr(settings, field)
        from_option = OPTIONS.get(source, source) if source in options else source
        lines.append(Line(field, Settings.names(field)[0], _shown(field, value), from_option, masked(problem)))
    return lines


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a note for each FORGE_ variable that is no setting: most are misspelt. Values are not shown."""
    known = [name for field in Settings.model_fields for name in Settings.names(field)]
    notes = []
    for name in sorted(environ):
        if name.startswith("FORGE_") and name not in known and name not in NO_SETTINGS:
            near = get_close_matches(name, known, n=1)
            notes.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return notes


def settings_page() -> str:
    """Return docs/configuration.md, made from the settings themselves."""
    rows = []
    for field, info in Settings.model_fields.items():
        newest, *older = [f"`{name}`" for name in Settings.names(field)]
        default = _default_text(field, info.default)
        rows.append(f"| {newest} | {default} | {info.description} | {', '.join(older)} |")
    return PAGE.format(rows="\n".join(rows))


def _problems(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is wrong by field name."""
    try:
        Settings.load(environ)
    except InvalidSettings as error:
        fields = {name: field for field in Settings.model_fields for name in Settings.names(field)}
        return {fields[problem.split(" ", 1)[0]]: problem for problem in error.problems}
    return {}


def _names_of(fields: Mapping[str, str]) -> set[str]:
    return {name for field in fields for name in Settings.names(field)}


def _shown(field: str, value: object) -> str:
    if not isinstance(value, SecretStr):
        return masked(str(value))
    secret = value.get_secret_value()
    return masked(secret) if field.endswith("_url") or not secret else HIDDEN


def _default_text(field: str, default: object) -> str:
    if field in DERIVED:
        return DERIVED[field]
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    return f"`{value}`" if value != "" else ""


DERIVED = {
    "data_dir": "`$XDG_DATA_HOME/forge`, else `~/.local/share/forge`, else `./forge-data`",
    "cache_dir": "`$XDG_CACHE_HOME/forge`, else `~/.cache/forge`, else `./forge-cache`",
    "node_id": "the machine's name",
    "control_db": "`<data>/control.db`",
    "docs_dir": "`<data>/docs`",
    "snapshot_db": "`<data>/snapshot.db`",
    "refs_db": "`<data>/refs.db`",
    "vector_embed_db": "`<data>/vector/embeddings.db`",
    "vector_queue_db": "`<data>/vector/queue.db`",
    "vector_temp_dir": "`<cache>/vector/tmp`",
    "vector_hydrated_db": "`<data>/embeddings.db`",
    "blob_cache": "`<cache>/blobs`",
}

PAGE = """\
# Configuration

Forge needs no configuration. Every setting is an environment variable; a blank one counts as unset, and a
relative path is taken from the folder where the command runs. `forge config show` prints each setting with its
value and where it came from, secrets masked; it works with invalid values too and names them.

The options `--data-dir`, `--url` and `--token` stand for `FORGE_DATA_DIR`, `FORGE_URL` and `FORGE_TOKEN` and win
over them. An older name is read where the newer one is not set. `FORGE_DEBUG=1` makes the command line show where
an unexpected error came from.

This page is made from `schemas/settings.py` by `make docs`.

| Variable | Default | Meaning | Older names |
|---|---|---|---|
{rows}
"""
