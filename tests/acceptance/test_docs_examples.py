"""The examples of the documentation, run against a real node: what a page shows is what happens.

A `console` block preceded by `<!-- run -->` is run. `$ ` begins a command and `> ` continues it; `# exits with 3` at
its end says how it ends if not with 0. The lines below are what it prints, `...` stands for any text, alone on a line
for any number of lines; no lines at all: anything. A page is one bash session in an empty folder.

A `python` block preceded by the same is a program of its own, which must end with 0; a `text` block directly below
it is what it prints. Blocks may be indented, as steps of a list are. `<!-- run with curl b3sum -->` names programs that
Debian does not always have. `<!-- node with FORGE_NAME=value -->` at the head of a page gives its node settings.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from forge.datadir import Runtime, read_root_token, read_runtime

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(
    r"^(?P<indent> *)<!-- run(?: with (?P<programs>[a-z0-9 ]+))? -->\n+"
    r"(?P=indent)```(?P<language>console|python)\n(?P<code>.*?)^(?P=indent)```$"
    r"(?:\n+(?P=indent)```text\n(?P<printed>.*?)^(?P=indent)```$)?",
    re.MULTILINE | re.DOTALL,
)
NODE = re.compile(r"^<!-- node with (.*?) -->$", re.MULTILINE)
EXIT = re.compile(r"#\s*exits with (\d+)\s*$")
MARK = "~~~ends with"
START_S = 60.0
STOP_S = 30.0
PAGE_S = 540.0  # a page may start an object store several times; pytest gives up soon after


@dataclass(frozen=True, slots=True)
class Example:
    """A command, the lines it must print (None: any), and its exit code."""

    command: str
    expected: str | None
    exit_code: int


def examples(page: str) -> list[Example]:
    """Return the examples of a page in order."""
    found = []
    for block in BLOCK.finditer(page):
        code, printed = (_outdented(block[part], block["indent"]) for part in ("code", "printed"))
        if block["language"] == "python":
            found.append(Example(f"python - <<'PROGRAM'\n{code}PROGRAM", printed, 0))
            continue
        for text in re.split(r"^\$ ", code or "", flags=re.MULTILINE)[1:]:
            lines = text.splitlines()
            more = next((i for i, line in enumerate(lines[1:], 1) if not line.startswith("> ")), len(lines))
            command = "\n".join([lines[0], *(line[2:] for line in lines[1:more])])
            ends = EXIT.search(command)
            expected = "\n".join(lines[more:]).strip("\n")
            found.append(Example(command, expected or None, int(ends[1]) if ends else 0))
    return found


def _outdented(text: str | None, indent: str) -> str | None:
    """Return a part of a block as it is without the indentation of a list around it."""
    return text and "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))


def programs(page: str) -> set[str]:
    """Return the programs that a page's examples need beside those of every Debian."""
    return {name for block in BLOCK.finditer(page) for name in (block["programs"] or "").split()}


def node_settings(page: str) -> dict[str, str]:
    """Return the settings that a page's node gets beside the usual ones."""
    return dict(one.split("=", 1) for line in NODE.findall(page) for one in line.split())


def matches(expected: str, printed: str) -> bool:
    """Return whether `printed` is what a page promises."""
    pattern = ""
    for line in expected.splitlines():
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += ".*?".join(_words(part) for part in line.rstrip().split("...")) + r"[ \t]*\n"
    return re.fullmatch(pattern, printed.rstrip("\n") + "\n") is not None


def _words(text: str) -> str:
    """Return the pattern of `text` with any number of blanks between its words: columns are as wide as they are."""
    return re.sub(r"(?:\\ )+", lambda _: "[ \\t]+", re.escape(text))


def run(page: list[Example], folder: Path, environ: dict[str, str]) -> list[tuple[str, int]]:
    """Run the commands of a page in one bash; return what each printed and its exit code."""
    script = "".join(f"{example.command}\nprintf '\\n{MARK} %d\\n' $?\n" for example in page)
    done = subprocess.run(
        ["bash", "--norc", "-s"],
        input=script,
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PAGE_S,
        check=False,
    )
    parts = re.split(rf"\n{MARK} (\d+)\n", done.stdout)
    return [(printed, int(code)) for printed, code in zip(parts[::2], parts[1::2], strict=False)]


def pages() -> list[Path]:
    return [
        page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if BLOCK.search(page.read_text())
    ]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of this machine's user is found, and `forge` is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FORGE_", "XDG_"))}
    return kept | {
        "HOME": str(tmp_path / "home"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FORGE_DATA_DIR": str(tmp_path / "data"),
        "FORGE_CACHE_DIR": str(tmp_path / "cache"),
        "LC_ALL": "C.UTF-8",
    }


@pytest.fixture
def node(page: Path, tmp_path: Path, environ: dict[str, str]) -> Iterator[Runtime]:
    """A node as a user starts it, stopped at the end with SIGTERM."""
    (tmp_path / "home").mkdir()
    data, output = tmp_path / "data", tmp_path / "up.txt"
    with output.open("w") as file:
        command = ["forge", "up", "--listen", "127.0.0.1:0", "--data-dir", str(data)]
        given = environ | node_settings(page.read_text())
        process = subprocess.Popen(command, env=given, stdout=file, stderr=subprocess.STDOUT)
    try:
        yield wait_for_node(process, data, output)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def wait_for_node(process: subprocess.Popen[bytes], data: Path, output: Path) -> Runtime:
    """Return where the node listens, as soon as it says so."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if runtime := read_runtime(data):
            return runtime
        assert process.poll() is None, f"forge up ended with {process.returncode}:\n{output.read_text()}"
        time.sleep(0.05)
    raise AssertionError(f"forge up is not ready after {START_S:g} s:\n{output.read_text()}")


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_shows_what_happens(page: Path, node: Runtime, environ: dict[str, str], tmp_path: Path) -> None:
    if missing := sorted(name for name in programs(page.read_text()) if shutil.which(name) is None):
        pytest.skip(f"needs {' and '.join(missing)} (Debian: apt-get install {' '.join(missing)})")
    folder = tmp_path / "page"
    folder.mkdir()
    token = read_root_token(tmp_path / "data")
    environ |= {"FORGE_URL": node.url, "FORGE_TOKEN": token, "URL": node.url, "TOKEN": token}
    wanted = examples(page.read_text())
    seen = run(wanted, folder, environ)
    for example, (printed, code) in zip(wanted, seen, strict=False):
        assert code == example.exit_code, f"$ {example.command}\n{printed}\nends with {code}"
        if example.expected is not None:
            assert matches(example.expected, printed), f"$ {example.command}\n{printed}\nis not\n{example.expected}"
    assert len(seen) == len(wanted), f"bash ended at $ {wanted[len(seen)].command}"


def test_the_examples_of_a_page_are_found() -> None:
    page = (
        "text\n<!-- run -->\n```console\n$ echo a \\\n>   b\na b\n$ false  # exits with 1\n```\n"
        "```console\n$ not run\n```\n<!-- run -->\n\n```console\n$ true\n```\n"
        "1. step\n\n   <!-- run -->\n   ```console\n   $ echo b\n     b\n   ```\n"
    )
    assert examples(page) == [
        Example("echo a \\\n  b", "a b", 0),
        Example("false  # exits with 1", None, 1),
        Example("true", None, 0),
        Example("echo b", "  b", 0),
    ]


def test_a_program_of_a_page_is_run_with_what_it_prints() -> None:
    page = "<!-- run with curl -->\n```python\nprint(1)\n```\n\n```text\n1\n```\n<!-- run -->\n```python\npass\n```\n"
    assert examples(page) == [
        Example("python - <<'PROGRAM'\nprint(1)\nPROGRAM", "1\n", 0),
        Example("python - <<'PROGRAM'\npass\nPROGRAM", None, 0),
    ]
    assert programs(page) == {"curl"}


def test_a_page_gives_its_node_settings() -> None:
    assert node_settings("# T\n\n<!-- node with FORGE_A=1 FORGE_B=x=y -->\n\ntext\n") == {
        "FORGE_A": "1",
        "FORGE_B": "x=y",
    }


def test_commands_of_a_page_share_a_shell(tmp_path: Path, environ: dict[str, str]) -> None:
    page = [Example(c, None, 0) for c in ("X=1; mkdir d; cd d", "echo $X; pwd", "(exit 3)", "echo no end >&2")]
    seen = run(page, tmp_path, environ)
    assert seen == [("", 0), (f"1\n{tmp_path}/d\n", 0), ("", 3), ("no end\n", 0)]


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a", "a\n", True),
        ("a", "a\nb\n", False),
        ("a\n...", "a\nb\nc\n", True),
        ("a\n...\nd", "a\nb\nc\nd\n", True),
        ("...\nd", "d\n", True),
        ("took ... ms", "took 3 ms\n", True),
        ("took ... ms", "took 3\n4 ms\n", False),
        ("a.b", "axb\n", False),
    ],
)
def test_dots_stand_for_what_varies(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
