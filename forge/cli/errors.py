"""What the command line says when something goes wrong: four lines, one exit code, no traceback."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these take longer to import than `forge --help` may take
    from events.objects.errors import KeyRefused
    from forge.client.errors import ClientError

SILENT_FIX = "see in the log of the node what it is at, and whether its process was stopped; then try again"
CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class ExitCode(IntEnum):
    """How a command ended, for scripts."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    WARNINGS = 2  # of `forge snapshot create`, whose older scripts know this number
    NOT_FOUND = 3
    DENIED = 4
    CONFLICT = 5
    NOT_READY = 6
    DATA_FAULT = 7
    INTERRUPTED = 130
    BROKEN_PIPE = 141


_BY_STATUS = {
    401: ExitCode.DENIED,
    403: ExitCode.DENIED,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.CONFLICT,
    410: ExitCode.NOT_FOUND,
    412: ExitCode.CONFLICT,
    422: ExitCode.USAGE,
    400: ExitCode.USAGE,
    429: ExitCode.NOT_READY,
    502: ExitCode.NOT_READY,
    503: ExitCode.NOT_READY,
    504: ExitCode.NOT_READY,
}


class CliError(Exception):
    """A command failed: what failed, the observed reason, what to do, where to read on."""

    def __init__(
        self, what: str, why: str, fix: str, more: str = "forge doctor", exit_code: int = ExitCode.FAILURE
    ) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.fix = fix
        self.more = more
        self.exit_code = int(exit_code)

    def text(self) -> str:
        """Return the four lines for a person."""
        return "\n".join(f"{name + ':':<6}{value}" for name, value in self._lines().items())

    def json(self) -> str:
        """Return one JSON object on one line, for a program."""
        return json.dumps(self._lines() | {"exit_code": self.exit_code})

    def _lines(self) -> dict[str, str]:
        return {
            "what": one_line(self.what),
            "why": one_line(self.why),
            "fix": one_line(self.fix),
            "more": one_line(self.more),
        }


@contextmanager
def stopped_by_hand(what: str, fix: str, more: str) -> Iterator[None]:
    """Say, when somebody has pressed Ctrl-C, how to go on; ends with 130 as always."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise CliError(what, "stopped with Ctrl-C", fix, more, ExitCode.INTERRUPTED) from stop


def masked(text: str) -> str:
    """Return `text` with the user and password of every URL in it replaced by `***`."""
    return CREDENTIALS.sub("***@", text)


def from_client_error(error: "ClientError") -> CliError:
    """Return what to say about an answer of a node, or the lack of one."""
    from forge.client.errors import ForgeError, NodeUnreachable

    match error:
        case ForgeError(status=status):
            code = _BY_STATUS.get(status, ExitCode.FAILURE)
            why = error.detail or error.title
            fix = error.fix or _FIXES.get(code, "see the log of the node")
            more = f"{error.type} (request {error.request_id})" if error.request_id else error.type
            return CliError(error.title, f"{why} (HTTP {status})", fix, more, code)
        case NodeUnreachable():
            fix = "start a node with `forge up`, or give its address with --url or FORGE_URL"
            fix = SILENT_FIX if error.hangs else fix
            return CliError(f"no answer from {error.url}", error.why, fix, "forge doctor", ExitCode.NOT_READY)
    return CliError("the node did not do what was asked", str(error), "compare the versions of both sides")


def key_refused(error: "KeyRefused") -> CliError:
    """Return what to say where the archive is encrypted, and not for the key here."""
    fix = f"{error.fix}; nothing was read or changed"
    return CliError("opening the archive", str(error), fix, "docs/encryption.md", ExitCode.DENIED)


def invalid_settings(error: Exception) -> CliError:
    """Return what to say of settings that cannot be used; the error names each."""
    return CliError(
        "reading the settings",
        str(error),
        "correct or unset the variables named above",
        "forge config show; docs/configuration.md",
        ExitCode.USAGE,
    )


_FIXES = {
    ExitCode.DENIED: "give a token with --token or FORGE_TOKEN; a local node's is in <data-dir>/root.token",
    ExitCode.NOT_FOUND: "check the name",
    ExitCode.CONFLICT: "read the present state and decide again",
    ExitCode.NOT_READY: "try again in a moment; `forge status` tells what is not ready",
    ExitCode.USAGE: "correct the request",
}


def one_line(text: str) -> str:
    """Collapse white space and control characters, so that no answer of a server can write on a terminal."""
    return " ".join(masked("".join(c if c.isprintable() else " " for c in text)).split())
