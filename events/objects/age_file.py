"""A file encrypted into another one, in little memory, hashed on both sides."""

from collections.abc import Sequence
from typing import BinaryIO

from blake3 import blake3

from events.objects import age
from events.objects.age import Recipient
from events.objects.errors import CorruptObject, StoreUnavailable
from events.staging import StagedFile


def seal_file(source: BinaryIO, target: StagedFile, recipients: Sequence[Recipient], digest: str) -> None:
    """Write `source` to `target` as an age file.

    Raise `CorruptObject` unless the BLAKE3 of `source` is `digest`, `OSError` if it cannot be read, and
    `StoreUnavailable` if `target` cannot be written.
    """
    read, write = _Source(source), _Target(target)
    try:
        age.encrypt_stream(read, write, recipients)
    except age.encrypt_errors() as error:  # what the files raise comes back as text
        if read.failed:
            raise read.failed from error
        raise StoreUnavailable(f"an encrypted file cannot be written: {write.failed or error}") from error
    if read.hasher.hexdigest() != digest:
        raise CorruptObject(f"{source.name} does not hold {digest}")


class _Source:
    """What is read, hashed, and the error that ended it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hasher = blake3()
        self.failed: OSError | None = None

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._file.read(size)
        except OSError as error:
            self.failed = error
            raise
        self.hasher.update(data)
        return data


class _Target:
    """Where it is written, and the error that ended it."""

    def __init__(self, file: StagedFile) -> None:
        self._file = file
        self.failed: OSError | None = None

    def write(self, data: bytes, /) -> int:
        try:
            self._file.append(data)
        except OSError as error:
            self.failed = error
            raise
        return len(data)
