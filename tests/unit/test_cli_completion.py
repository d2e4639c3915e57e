"""Shell completion, asked for in the way a shell does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from forge.cli import COMMANDS, main
from forge.cli.completion import SHELLS

FORGE = Path(sys.executable).with_name("forge")
ASK = """
eval "$(forge completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
COMPREPLY=()
_forge_completion forge
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(words: str) -> list[str]:
    """Let bash run the script and complete the last of `words`."""
    environ = {"PATH": f"{FORGE.parent}:{os.environ['PATH']}", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.format(words=words)], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands() -> None:
    assert completed('forge ""') == list(COMMANDS)
    assert completed("forge co") == ["config", "completion"]


def test_bash_completes_subcommands_and_options() -> None:
    assert completed("forge config sh") == ["show"]
    assert completed("forge doctor --da") == ["--data-dir"]
    assert completed("forge --to") == ["--token"]
    assert completed("forge completion f") == ["fish"]


@pytest.mark.parametrize("shell", SHELLS)
def test_each_script_passes_the_syntax_check_of_its_shell(shell: str, tmp_path: Path) -> None:
    script = tmp_path / shell
    script.write_text(CliRunner().invoke(main, ["completion", shell]).stdout)
    assert "_FORGE_COMPLETE" in script.read_text()
    if shutil.which(shell):
        subprocess.run([shell, "-n", script], check=True)


def test_another_shell_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["completion", "tcsh"]).exit_code == 2
