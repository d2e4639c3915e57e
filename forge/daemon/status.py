"""What a daemon says of itself: a file in its data directory, since it listens nowhere."""

import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from forge.process_id import ProcessId
from schemas.replicate import PartitionReply, StreamReply

FILE = "daemon.json"


class DaemonStatus(BaseModel):
    """How far everything is archived, and who may write there."""

    model_config = ConfigDict(frozen=True)

    process: ProcessId
    node: str
    at: str
    archive: str
    waits_for: str
    lease: dict[str, Any] | None
    streams: list[StreamReply] = []
    partitions: list[PartitionReply] = []

    def told(self) -> dict[str, Any]:
        """Return it as `forge replicate status` prints it."""
        return self.model_dump(mode="json", exclude={"process"})


def write_status(data_dir: Path, status: DaemonStatus) -> None:
    """Replace what was said before. Not synced: after a crash nobody is there to say anything."""
    descriptor, name = tempfile.mkstemp(prefix=f".{FILE}.", dir=data_dir)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(status.model_dump_json())
        os.replace(name, data_dir / FILE)
    except BaseException:
        os.unlink(name)
        raise


def read_status(data_dir: Path) -> DaemonStatus | None:
    """Return what the daemon that runs on a data directory said last, None if none runs there."""
    try:
        status = DaemonStatus.model_validate_json((data_dir / FILE).read_bytes())
    except (OSError, ValidationError):
        return None
    return status if status.process.alive() else None
