"""Which process is meant: a process id and when it started, because process ids are used again."""

import os
import sys
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

_START_TICKS_FIELD = 19  # of /proc/<pid>/stat, counted after the program name, which may hold blanks


class ProcessId(BaseModel):
    """A process. `started` is empty where the system does not tell when a process started."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: str

    @classmethod
    def current(cls) -> Self:
        """Return the process that runs this."""
        return cls(pid=os.getpid(), started=_started(os.getpid()))

    def alive(self) -> bool:
        """Return whether this very process still runs; one that ended but was not waited for does not."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it runs, as another user
        return _started(self.pid) == self.started


def _started(pid: int) -> str:
    """Return boot id and start time in clock ticks since boot, empty if the process has ended."""
    if sys.platform != "linux":
        return ""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    if fields[0] in "ZX":
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{fields[_START_TICKS_FIELD]}"
