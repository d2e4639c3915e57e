"""In continuous integration nothing may be skipped without the run failing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPS = "import pytest\ndef test_passes(): pass\n@pytest.mark.skip(reason='no b3sum')\ndef test_skips(): pass\n"
SKIPS_ALL = "import pytest\npytest.skip('no module', allow_module_level=True)\n"
EXPECTED = "import pytest\n@pytest.mark.xfail(strict=True)\ndef test_fails(): assert False\n"


@pytest.mark.parametrize("workers", ["0", "2"])
@pytest.mark.parametrize(
    ("source", "ci", "exit_code"),
    [
        (SKIPS, "true", 1),
        (SKIPS, "", 0),
        (SKIPS, "false", 0),
        (SKIPS_ALL, "true", 1),
        (EXPECTED, "true", 0),
        ("def test_passes(): pass\n", "true", 0),
    ],
)
def test_a_skip_fails_the_run_in_ci_alone(tmp_path: Path, source: str, ci: str, exit_code: int, workers: str) -> None:
    (tmp_path / "test_one.py").write_text(source)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")

    (tmp_path / "test_two.py").write_text("def test_passes(): pass\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-n",
            workers,
            "-p",
            "xdist",
            "-p",
            "tests.ci_plugin",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        cwd=tmp_path,
        env={
            **os.environ,
            "CI": ci,
            "PYTHONPATH": str(ROOT),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout
    assert done.stdout.count("CI=true does not allow") == bool(exit_code)
