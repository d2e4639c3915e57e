"""What the payload store refuses or cannot do."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class PayloadError(Exception):
    """The payload store could not do what was asked.

    PayloadError
    ├── PayloadTooLarge      the stream is longer than the caller allowed
    ├── PayloadMissing       no file of that content
    └── PayloadStoreError    the disk, not the caller
        ├── PayloadStoreFull   no space or quota left; nothing was kept
        ├── PayloadStoreBusy   too many files wait for their sync; try again later
        └── PayloadNotDurable  written or named, but the disk did not confirm it; nothing was kept
    """


class PayloadTooLarge(PayloadError):
    """The stream is longer than `bytes_max`."""

    def __init__(self, bytes_max: int) -> None:
        super().__init__(f"the payload is larger than the {bytes_max} bytes allowed; send a smaller one")
        self.bytes_max = bytes_max


class PayloadMissing(PayloadError):
    """The store has no file of this content."""

    def __init__(self, cid: str) -> None:
        super().__init__(f"payload {cid} is not on this node; upload it again")
        self.cid = cid


class PayloadStoreError(PayloadError):
    """The disk refused."""


class PayloadStoreFull(PayloadStoreError):
    """No space or quota left."""


class PayloadStoreBusy(PayloadStoreError):
    """The queue of files that wait for their sync is at its bound."""


class PayloadNotDurable(PayloadStoreError):
    """The disk did not confirm the bytes or the name."""


def translated(error: OSError, what: str, otherwise: type[PayloadStoreError]) -> PayloadStoreError:
    """Return the typed form of an error that the disk gave while doing `what`."""
    if error.errno in _FULL:
        return PayloadStoreFull(f"no space left while {what} ({error}); free some space and send it again")
    return otherwise(f"the disk failed while {what}: {error}")


@contextmanager
def disk_errors(what: str, otherwise: type[PayloadStoreError] = PayloadStoreError) -> Iterator[None]:
    """Raise what the disk raises inside as a `PayloadStoreError`."""
    try:
        yield
    except OSError as error:
        raise translated(error, what, otherwise) from error
