"""What the command line says when the object store does not do what a command needs."""

from collections.abc import Iterator
from contextlib import contextmanager

from forge.cli.errors import CliError, ExitCode, key_refused
from forge.cli.node_call import said_once

NO_STORE = "no object store is set"


@contextmanager
def store_errors(what: str, more: str = "docs/restore.md") -> Iterator[None]:
    """Raise what a store raises as `CliError`; `more` is where to read on. Say when it is waited for."""
    from events.objects.errors import KeyRefused, StoreError, StoreRefused, StoreUnavailable
    from events.objects.retrying import WAITING

    before = WAITING.set(said_once())
    try:
        yield
    except KeyRefused as error:
        raise key_refused(error) from error
    except StoreRefused as error:
        fix = "correct FORGE_S3_BUCKET, or the FORGE_S3_* keys; nothing was changed"
        raise CliError(what, str(error), fix, more, ExitCode.DENIED) from error
    except StoreUnavailable as error:
        fix = "see that the store can be reached (FORGE_S3_ENDPOINT_URL) and run the command again: it goes on"
        raise CliError(what, str(error), fix, more, ExitCode.NOT_READY) from error
    except StoreError as error:
        raise CliError(what, str(error), "look at the object that the reason names", "", ExitCode.DATA_FAULT) from error
    finally:
        WAITING.reset(before)


def no_store(what: str) -> CliError:
    """Return what to say to somebody who has not said where the archive is."""
    fix = "set FORGE_S3_BUCKET, FORGE_S3_PREFIX and the keys of the store, as the lost node had them"
    return CliError(what, NO_STORE, fix, "docs/restore.md", ExitCode.USAGE)
