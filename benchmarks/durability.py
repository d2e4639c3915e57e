"""Figures of the long crash tests and power cuts: what was acknowledged, what was lost, how long recovery took."""

import json
import re
import subprocess
import sys
from typing import Any

from benchmarks.report import Report

TESTS = ("tests/acceptance/test_crashes.py", "tests/acceptance/test_power_cuts.py")
LINE = re.compile(r"((?:kills of the|power) \w+): (\{.*\})$")
TIMEOUT_S = 7200
SUMS = ("faults", "uploads_acknowledged", "files_accepted", "files_lost")


def run() -> None:
    """Run the long variants and store their figures; fail if one of them fails. Takes about 15 minutes."""
    command = [sys.executable, "-u", "-m", "pytest", *TESTS, "-m", "long", "-s", "--timeout", str(TIMEOUT_S)]
    figures: dict[str, Any] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        for line in tests.stdout:
            print(line, end="", flush=True)
            if found := LINE.search(line.rstrip()):
                figures[found[1]] = json.loads(found[2])
    if tests.returncode != 0 or not figures:
        sys.exit(f"the durability tests ended with {tests.returncode}; nothing is stored")
    figures["total"] = {name: sum(one[name] for one in figures.values()) for name in SUMS}
    Report("durability", figures).write()


if __name__ == "__main__":  # not called main, so that `make bench` leaves it out: it would take twice as long
    run()
