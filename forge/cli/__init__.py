"""The `forge` command: commands load when they are called, so that help and completion answer at once."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from forge.cli.errors import CliError, ExitCode, from_client_error, invalid_settings, key_refused
from forge.cli.leaving import leave_with
from forge.cli.options import json_option, node_options

COMMANDS = {
    "up": ("forge.cli.up:up", "Start everything on this machine and serve."),
    "serve": ("forge.cli.up:serve", "Serve the API against your own NATS servers."),
    "worker": ("forge.cli.up:worker", "Run one worker against your own NATS servers."),
    "status": ("forge.cli.status:status", "Show what a running node is doing."),
    "healthcheck": ("forge.cli.healthcheck:healthcheck", "Ask whether a node answers, for supervisors."),
    "doctor": ("forge.cli.doctor:doctor", "Check this machine and the node on it."),
    "db": ("forge.cli.db:db", "Make documents, run SQL in them, watch them, read their past."),
    "lease": ("forge.cli.lease:lease", "Lease resources, and run commands that need one."),
    "pub": ("forge.cli.messages:pub", "Publish a message in a document."),
    "sub": ("forge.cli.messages:sub", "Print the messages of a document as they come."),
    "webhook": ("forge.cli.webhook:webhook", "Say how the webhooks of a document are checked."),
    "token": ("forge.cli.token:token", "Make tokens that open a part of a node."),
    "snapshot": ("forge.cli.snapshot:snapshot", "Remember what folders look like, and bring them back."),
    "replica": ("forge.cli.replica:replica", "Keep SQLite files following documents, and see those that do."),
    "vector": ("forge.cli.vector:vector", "Embed files, and search what is alike."),
    "log": ("forge.cli.log:log", "Read and verify the log."),
    "replicate": ("forge.cli.replicate:replicate", "See how far the log is archived."),
    "restore": ("forge.cli.restore:restore", "Bring a machine back from the object store."),
    "keys": ("forge.cli.keys:keys", "See, prove and change who can read the archive."),
    "rebuild": ("forge.cli.rebuild:rebuild", "Fold the log again into fresh databases."),
    "config": ("forge.cli.config:config", "Show the settings and where they come from."),
    "completion": ("forge.cli.completion:completion", "Print a script for shell completion."),
}
"""Where each command lives, and its line in the help, which must not cost an import."""

ALIASES = {"snap": "snapshot"}
"""Shorter names of commands."""

COMPLETING = "_FORGE_COMPLETE"
"""Set by a shell that asks for completions."""


class ReaderLeft(Exception):
    """Whoever read our output has closed it."""


class Forge(click.Group):
    """A group that imports a command only to run it, and ends with the exit codes of `ExitCode`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command by its exact name, importing it."""
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest names."""
        if (
            args
            and args[0] not in COMMANDS.keys() | ALIASES
            and not args[0].startswith("-")
            and not ctx.resilient_parsing
        ):
            raise click.NoSuchCommand(args[0], possibilities=COMMANDS, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete command names from the table alone, and options as Click does."""
        names = [CompletionItem(name, help=line) for name, (_, line) in COMMANDS.items() if name.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run and leave the process with an exit code; see `run`."""
        extra |= {"prog_name": prog_name, "complete_var": complete_var}
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **extra)
        code = self.run(sys.argv[1:] if args is None else list(args), **extra)
        if args is None:  # the process is this command's own
            leave_with(code)
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has left gets past Click, which would call it a failure."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderLeft from error

    def run(self, arguments: list[str], **extra: Any) -> int:
        """Run one command line and return its exit code; errors are printed, never raised."""
        try:
            code = super().main(arguments, standalone_mode=False, **extra)
            sys.stdout.flush()
            return code if isinstance(code, int) else ExitCode.OK
        except (ReaderLeft, BrokenPipeError):
            # The reader has left; without this the interpreter complains once more when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.BROKEN_PIPE
        except (click.Abort, KeyboardInterrupt):
            return ExitCode.INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as no_command:
            click.echo(no_command.format_message())
            return ExitCode.OK
        except Exception as error:
            if COMPLETING in os.environ:
                return ExitCode.FAILURE  # a person is typing: nothing may be written between their words
            if os.environ.get("FORGE_DEBUG") and not isinstance(error, CliError | click.ClickException):
                raise
            return _report(error, arguments)


def _report(error: Exception, arguments: Sequence[str]) -> int:
    """Print `error` in four lines, or as JSON if that was asked for, and return its exit code."""
    failure = _failure(error)
    before_end = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in before_end or "-json" in before_end
    click.echo(failure.json() if as_json else failure.text(), err=True)
    return failure.exit_code


def _failure(error: Exception) -> CliError:
    client = sys.modules.get("forge.client.errors")  # an error of the client can only come from what is loaded
    if client and isinstance(error, client.ClientError):
        return from_client_error(error)
    settings, objects = (sys.modules.get(name) for name in ("schemas.settings", "events.objects.errors"))
    if settings and isinstance(error, settings.InvalidSettings):
        return invalid_settings(error)
    if objects and isinstance(error, objects.KeyRefused):
        return key_refused(error)
    match error:
        case CliError():
            return error
        case click.UsageError():
            command = error.ctx.command_path if error.ctx else "forge"
            message = error.message if _possibilities(error) else error.format_message()
            return CliError(command, message, _nearest(error), f"{command} --help", ExitCode.USAGE)
        case click.ClickException():
            return CliError("forge", error.format_message(), "correct the command", "forge --help")
        case UnicodeEncodeError() if 0xD800 <= ord(error.object[error.start]) <= 0xDFFF:  # how Python keeps odd bytes
            fix = "write it in UTF-8; where a command takes a file, that may hold any bytes"
            return CliError("forge", "an argument is not UTF-8", fix, "forge --help", ExitCode.USAGE)
    return CliError(
        "forge stopped unexpectedly",
        f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
        "run the command again with FORGE_DEBUG=1 to see where, and report it if it is not your machine",
        "forge doctor",
    )


def _possibilities(error: click.UsageError) -> list[str]:
    return getattr(error, "possibilities", None) or []


def _nearest(error: click.UsageError) -> str:
    if names := _possibilities(error):
        return "did you mean " + " or ".join(names) + "?"
    command = error.ctx.command_path if error.ctx else "forge"
    return f"see `{command} --help` for what it takes"


@click.group(
    cls=Forge,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 not found, 4 denied, 5 conflict, 6 not ready, "
    "7 data fault. Every command takes --json.",
)
@node_options
@json_option
@click.version_option(package_name="forge")
def main() -> None:
    """Self-hosted data on machines you own: a durable log and what is made of it."""
