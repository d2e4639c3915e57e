"""Litestream beside SQLite files that somebody else writes, into the same object store."""

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.processes import ProcessTree, program, program_version
from forge.stack.weed import REGION, Weed

NAME = "litestream"
STOP_S = 60.0
RESTORE_S = 1800.0


@dataclass(frozen=True, slots=True)
class Litestream:
    """A configuration for some databases, each below `<prefix>/<name of its file>` of a bucket."""

    weed: Weed
    bucket: str
    prefix: str
    folder: Path
    programs: Path | None

    @property
    def version(self) -> str:
        """What it says of its version."""
        return " ".join((NAME, program_version(NAME, self.programs, "version")))

    def configure(self, databases: Sequence[Path], *, sync_s: float) -> Path:
        """Write the configuration and return where it is; everything but the interval is as it comes."""
        path = self.folder / "litestream.json"  # JSON is YAML
        replica = {
            "type": "s3",
            "bucket": self.bucket,
            "endpoint": self.weed.s3_url,
            "region": REGION,
            "force-path-style": True,
            "sync-interval": f"{sync_s}s",
        }
        interval = {"monitor-interval": f"{sync_s}s"}
        listed = [
            {"path": str(path), "replica": replica | {"path": f"{self.prefix}/{path.stem}"}} | interval
            for path in databases
        ]
        keys = {"access-key-id": self.weed.access_key, "secret-access-key": self.weed.secret_key}
        path.write_text(json.dumps(keys | {"dbs": listed}))
        return path

    @contextmanager
    def replicating(self, databases: Sequence[Path], *, sync_s: float = 1.0) -> Iterator[ProcessTree]:
        """Replicate inside the block."""
        command = [program(NAME, self.programs), "replicate", "-config", str(self.configure(databases, sync_s=sync_s))]
        with (
            open(self.folder / "litestream.log", "ab") as log,
            subprocess.Popen(command, stdout=log, stderr=log, env=_environ()) as process,
        ):
            try:
                yield ProcessTree(process.pid)
            finally:
                process.terminate()
                process.wait(timeout=STOP_S)

    def restore(self, database: Path, target: Path, *options: str) -> float:
        """Restore what the last configuration replicates of `database`; return how long it took in seconds."""
        config = str(self.folder / "litestream.json")
        command = [
            program(NAME, self.programs),
            "restore",
            "-config",
            config,
            "-o",
            str(target),
            *options,
            str(database),
        ]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, timeout=RESTORE_S, env=_environ())
        return time.perf_counter() - began


def _environ() -> dict[str, str]:
    """Return an environment without settings of other S3 clients, some of which it takes and cannot use."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
