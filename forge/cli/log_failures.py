"""What commands say when the log, its data directory or its server cannot be used."""

from collections.abc import Iterator
from contextlib import contextmanager

from forge.cli.errors import CliError, ExitCode


@contextmanager
def log_failures(what: str) -> Iterator[None]:
    """Turn what can go wrong with a log into the four lines; what servers say while they start is not shown."""
    from events.errors import LogDamaged, LogError
    from forge.datadir import DataDirBusy, DataDirError
    from forge.logs import configure_logs
    from forge.stack.errors import StackError

    configure_logs("error")
    try:
        yield
    except LogDamaged as error:
        fix = "stop writing and keep a copy of the data directory"
        raise CliError(what, str(error), fix, "docs/operations.md", ExitCode.DATA_FAULT) from error
    except LogError as error:
        raise CliError(what, str(error), "see that nats-server runs", "forge doctor", ExitCode.NOT_READY) from error
    except DataDirBusy as error:
        fix = f"stop the node first: kill {error.pid}" if error.pid else "try again in a moment"
        raise CliError(what, str(error), fix, "forge status", ExitCode.CONFLICT) from error
    except (DataDirError, StackError) as error:
        raise CliError(what, str(error), "mend what the reason names") from error
