"""Where this node lives, as its writer lease tells it: the machine and the data directory, and what that remembers."""

import asyncio
import socket
from pathlib import Path

import structlog
from blake3 import blake3
from pydantic import ValidationError

from forge.private_file import write_private
from schemas.writer_lease import SavedLease

FILE = "lease.json"
_MACHINE_ID = Path("/etc/machine-id")

log = structlog.get_logger(__name__)


class LeasePlace:
    """The data directory at `path`, whose lock is ours."""

    def __init__(self, path: Path) -> None:
        self._file = path / FILE
        self.host = socket.gethostname() or "localhost"
        self.name = f"{self.host}/{_machine()}:{path.resolve()}"

    async def load(self) -> SavedLease:
        """Return what was saved here last; what cannot be read counts as nothing, so that we wait like a stranger."""
        try:
            return SavedLease.model_validate_json(await asyncio.to_thread(self._file.read_bytes))
        except FileNotFoundError:
            return SavedLease()
        except ValidationError as error:
            log.warning("not a saved lease", path=str(self._file), reason=str(error))
            return SavedLease()

    async def forget(self) -> None:
        """Remember nothing any more: whoever starts here next waits like a stranger, and begins an epoch."""
        await asyncio.to_thread(self._file.unlink, missing_ok=True)

    async def save(self, saved: SavedLease) -> None:
        """Replace it, durably."""
        await asyncio.to_thread(write_private, self._file, saved.model_dump_json())


def _machine() -> str:
    """Return something that two machines of the same name do not share; empty where there is nothing such."""
    try:
        return blake3(_MACHINE_ID.read_bytes().strip()).hexdigest(4)
    except OSError:
        return ""
