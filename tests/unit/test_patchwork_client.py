"""The shell client of the relay: valid for every sh, and what it asks curl for."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from api.static_files import read_static

SHELLS = [shell for shell in ("sh", "dash", "bash", "busybox") if shutil.which(shell)]
FAKE_CURL = """#!/bin/sh
printf '%s\\n' "$@" >"$SEEN/arguments"
cat <&3 >"$SEEN/configuration"
cat >"$SEEN/input"
"""


@pytest.fixture
def client(tmp_path: Path) -> Path:
    path = tmp_path / "patchwork.sh"
    path.write_bytes(read_static("patchwork.sh"))
    return path


class Called:
    """What the client did with a curl that only notes what it is given."""

    def __init__(self, client: Path, *arguments: str, given: str = "", **environ: str) -> None:
        curl = client.parent / "bin" / "curl"
        curl.parent.mkdir(exist_ok=True)
        curl.write_text(FAKE_CURL)
        curl.chmod(0o755)
        self.done = subprocess.run(
            ["sh", client, *arguments],
            env={"PATH": f"{curl.parent}:{os.environ['PATH']}", "SEEN": str(client.parent)} | environ,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            cwd=client.parent,
        )
        self.arguments = (client.parent / "arguments").read_text().splitlines()
        self.url = (client.parent / "configuration").read_text().strip()


@pytest.mark.parametrize("shell", SHELLS)
def test_it_is_a_program_for_every_sh(client: Path, shell: str) -> None:
    """P4.10, L.66, L.79: assertion 60 of later relays."""
    subprocess.run([*(["busybox", "sh"] if shell == "busybox" else [shell]), "-n", client], check=True)


def test_send_posts_what_is_on_stdin(client: Path) -> None:
    called = Called(
        client, "send", "-n", "u/alice", "-t", "forge_x", "queue/jobs", given="hi", PATCHWORK_SERVER="http://relay.test"
    )
    assert called.done.returncode == 0, called.done.stderr
    assert called.url == 'url = "http://relay.test/u/alice/queue/jobs?token=forge_x"'
    assert called.arguments[-2:] == ["--data-binary", "@-"]
    assert (client.parent / "input").read_text() == "hi"
    assert not any("forge_x" in argument for argument in called.arguments), "others can see it in the list of processes"


@pytest.mark.parametrize(
    ("options", "url"),
    [
        (("jobs",), "/p/jobs"),
        (("-m", "queue", "jobs"), "/p/jobs"),
        (("-m", "pubsub", "jobs"), "/p/jobs?pubsub=true"),
        (("jobs", "-n", "public", "-m", "pubsub"), "/public/jobs?pubsub=true"),
        (("-n", "public", "--", "-m"), "/public/-m"),
        (("-n", "public", "a b/ü"), "/public/a%20b/%C3%BC"),
        (("-n", "h", "-s", "00ff", "-m", "pubsub", "door"), "/h/door?pubsub=true&secret=00ff"),
        (("-s", "00ff", "-t", "forge_x", "jobs"), "/p/jobs"),
        (('x"\n&?#%',), "/p/x%22%0A%26%3F%23%25"),
    ],
)
def test_a_channel_becomes_an_address(client: Path, options: tuple[str, ...], url: str) -> None:
    called = Called(client, "send", *options, FORGE_URL="http://forge.test/")
    assert called.url == f'url = "http://forge.test{url}"'


def test_a_link_carries_the_text_in_its_address(client: Path) -> None:
    called = Called(client, "send", "-g", "-m", "pubsub", "door", given="ring\n")
    assert called.url == 'url = "http://127.0.0.1:8080/p/door?pubsub=true"'
    assert called.arguments[-3:] == ["--get", "--data-urlencode", "body@-"]
    assert (client.parent / "input").read_text() == "ring\n"


def test_receive_gives_up_after_its_time(client: Path) -> None:
    assert Called(client, "receive", "-T", "3", "jobs").arguments[-2:] == ["--max-time", "3"]
    assert "--max-time" not in Called(client, "receive", "jobs").arguments


def test_share_names_the_channel_like_the_file(client: Path) -> None:
    (client.parent / "pictures").mkdir()
    (client.parent / "pictures/one two.png").write_bytes(b"\0")
    called = Called(client, "share", "pictures/one two.png")
    assert called.url.endswith('/p/one%20two.png"')
    assert called.arguments[-2:] == ["--upload-file", "pictures/one two.png"]


def test_download_keeps_nothing_of_what_failed(client: Path) -> None:
    Called(client, "download", "one.png")
    assert (client.parent / "one.png").read_bytes() == b""
    curl = client.parent / "bin" / "curl"
    (client.parent / "one.png").write_text("before")
    curl.write_text("#!/bin/sh\necho half\nexit 22\n")
    environ = os.environ | {"PATH": f"{curl.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", client, "download", "one.png"], env=environ, cwd=client.parent, check=False)
    assert done.returncode == 22
    assert (client.parent / "one.png").read_text() == "before"
    assert not list(client.parent.glob("*.part*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("help",), 0),
        (("send",), 2),
        (("send", ""), 2),
        (("sned", "x"), 2),
        (("send", "-z", "x"), 2),
        (("send", "x", "y"), 2),
    ],
)
def test_wrong_calls_end_with_2_and_say_why(client: Path, arguments: tuple[str, ...], code: int) -> None:
    done = subprocess.run(["sh", client, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "patchwork.sh" in (done.stderr if code else done.stdout)


@pytest.mark.parametrize("arguments", [("share", "{}"), ("send", "-f", "{}", "x"), ("send", "-g", "-f", "{}", "x")])
def test_what_is_no_file_is_refused(client: Path, arguments: tuple[str, ...]) -> None:
    """curl would send nothing, and say that all is well."""
    for path in (client.parent, client.parent / "nothing"):
        command = ["sh", str(client), *(one.format(path) for one in arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (2, f"patchwork.sh: there is no file {path} to read\n")


def test_a_link_without_a_text_is_refused(client: Path) -> None:
    """It would be a GET that receives, and take a message from somebody else."""
    command = ["sh", str(client), "send", "-g", "x"]
    done = subprocess.run(command, input="", capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "would receive" in done.stderr
