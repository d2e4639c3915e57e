"""The data directory belongs to one node at a time and keeps its secrets to its owner."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forge.datadir import DataDir, DataDirBusy, DataDirUnusable, read_runtime, root_token

HOLDER = """
import sys
from pathlib import Path
from forge.datadir import DataDir

with DataDir.open(Path(sys.argv[1])) as data:
    data.publish("http://127.0.0.1:1", "node-a")
    print("open", flush=True)
    sys.stdin.read()
"""
LEAVER = """
import subprocess, sys
from pathlib import Path
from forge.datadir import DataDir

data = DataDir.open(Path(sys.argv[1]))
child = subprocess.Popen(["cat"], pass_fds=[data.lock_fd])
print(child.pid, flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def other_node(folder: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_data_directory_is_private(folder: Path) -> None:
    with DataDir.open(folder) as data:
        data.publish("http://127.0.0.1:1", "node-a")
        token = root_token(folder)

        assert mode(folder) == 0o700
        assert {mode(folder / name) for name in ("forge.lock", "runtime.json", "root.token")} == {0o600}
        assert token not in (folder / "runtime.json").read_text()


def test_a_second_node_is_refused_with_the_pid_of_the_first(folder: Path, other_node: subprocess.Popen[str]) -> None:
    with pytest.raises(DataDirBusy, match=f"process {other_node.pid};") as refused:
        DataDir.open(folder)

    assert refused.value.pid == other_node.pid


def test_a_second_open_in_the_same_process_is_refused(folder: Path) -> None:
    with DataDir.open(folder), pytest.raises(DataDirBusy) as refused:
        DataDir.open(folder)

    assert refused.value.pid == os.getpid()


def test_the_directory_opens_after_the_holder_was_killed(folder: Path, other_node: subprocess.Popen[str]) -> None:
    other_node.kill()
    other_node.wait()

    with DataDir.open(folder) as data:
        assert data.path == folder


def test_the_lock_lasts_until_the_children_of_a_dead_node_have_ended(folder: Path) -> None:
    """The leaver exits at once; its child `cat` lives until our end of the pipe closes."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVER, str(folder)], stdin=reader, stdout=subprocess.PIPE, text=True
    )
    os.close(reader)
    assert process.stdout
    process.stdout.readline()
    process.wait()
    try:
        with pytest.raises(DataDirBusy, match="left behind") as refused:
            DataDir.open(folder, wait_s=0.2)
        assert refused.value.pid is None
    finally:
        os.close(writer)
        process.stdout.close()

    DataDir.open(folder).close()


def test_runtime_tells_where_the_node_listens_while_it_lives(folder: Path, other_node: subprocess.Popen[str]) -> None:
    found = read_runtime(folder)
    other_node.kill()
    other_node.wait()

    assert found is not None
    assert (found.url, found.node_id, found.pid) == ("http://127.0.0.1:1", "node-a", other_node.pid)
    assert (folder / "runtime.json").exists()
    assert read_runtime(folder) is None


def test_runtime_of_a_process_id_that_was_used_again_is_not_believed(folder: Path) -> None:
    with DataDir.open(folder) as data:
        data.publish("http://127.0.0.1:1", "node-a")
        file = folder / "runtime.json"
        file.write_text(file.read_text().replace('"started":"', '"started":"earlier-'))

        assert read_runtime(folder) is None


def test_runtime_is_gone_after_an_orderly_stop(folder: Path) -> None:
    with DataDir.open(folder) as data:
        data.publish("http://127.0.0.1:1", "node-a")

    assert not (folder / "runtime.json").exists()
    assert read_runtime(folder) is None
    assert read_runtime(folder / "missing") is None


def test_the_root_token_is_made_once_and_long_enough(folder: Path) -> None:
    folder.mkdir()

    token = root_token(folder)

    assert root_token(folder) == token
    assert token.startswith("forge_")
    assert len(token) == len("forge_") + 43  # 256 bits in base64url without padding
    assert [file.name for file in folder.iterdir()] == ["root.token"]


def test_a_root_token_open_to_others_is_narrowed(folder: Path) -> None:
    folder.mkdir()
    token = root_token(folder)
    (folder / "root.token").chmod(0o644)

    assert root_token(folder) == token
    assert mode(folder / "root.token") == 0o600


def test_a_file_that_holds_no_token_is_refused(folder: Path) -> None:
    folder.mkdir()
    (folder / "root.token").write_text("")

    with pytest.raises(DataDirUnusable, match="holds no token"):
        root_token(folder)


def test_a_file_in_place_of_the_directory_is_refused(folder: Path) -> None:
    folder.write_text("")

    with pytest.raises(DataDirUnusable, match="cannot use"):
        DataDir.open(folder)
