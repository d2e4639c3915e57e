"""Figures of the long crash tests and power cuts: what was acknowledged, what was lost, how long recovery took."""

import json
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from benchmarks.report import Report

TESTS = ("tests/acceptance/test_crashes.py", "tests/acceptance/test_power_cuts.py")
TIMEOUT_S = 7200


def main() -> None:
    """Run the long variants, which print as they go, and store the figures; fail if one of them fails."""
    with tempfile.TemporaryDirectory(prefix="forge-durability-") as folder:
        results = Path(folder) / "results.xml"
        command = ["-m", "pytest", *TESTS, "-m", "long", "-s", "--timeout", str(TIMEOUT_S), f"--junitxml={results}"]
        code = subprocess.run([sys.executable, *command], check=False).returncode
        figures = read_figures(results)
    if code != 0 or not figures:
        sys.exit(f"the durability tests ended with {code}; nothing is stored")
    figures["total"] = {
        name: sum(one[name] for one in figures.values()) for name in ("faults", "uploads_acknowledged", "files_lost")
    }
    Report("durability", figures).write()


def read_figures(results: Path) -> dict[str, Any]:
    """Return what each test attached to its result, by its name."""
    properties = ElementTree.parse(results).iter("property")
    return {one.attrib["name"]: json.loads(one.attrib["value"]) for one in properties}


if __name__ == "__main__":
    main()
