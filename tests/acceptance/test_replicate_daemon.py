"""`forge replicate daemon` as a user sees it: killed, restored elsewhere, encrypted, reloaded, without its store."""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import zstandard

from events.objects.age import MAGIC, new_identity, parse_identities
from forge.stack.weed import Weed
from schemas.generation import Manifest
from tests.acceptance.conftest import StartNode
from tests.acceptance.daemon_process import ARCHIVED_S, DaemonProcess
from tests.acceptance.node_process import POLL_S, NodeProcess
from tests.faults.killer import fresh_seed, kill
from tests.faults.s3_proxy import S3Proxy
from tests.s3_stores import s3_environ, s3_store
from tests.waiting import until

NAME, NODE = "ada/laptop", "ada_laptop"
MARKER = "marker-of-a-secret-name"
QUICK = {"FORGE_ARCHIVE_SEAL_S": "0.1", "FORGE_GENERATION_RECORDS": "1", "FORGE_LEASE_DURATION_S": "12"}
StartDaemon = Callable[..., Awaitable[DaemonProcess]]


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test writes."""
    return f"daemon-{random.Random(fresh_seed()).randrange(1 << 30)}"


@pytest_asyncio.fixture
async def start_daemon(tmp_path: Path, weed: Weed, prefix: str) -> AsyncIterator[StartDaemon]:
    """Start daemons for this test alone; keywords are settings that differ, `name` is that of the home."""
    async with AsyncExitStack() as closing:

        async def start(name: str = "a", port: int | None = None, **extra: str) -> DaemonProcess:
            home = tmp_path / name
            home.mkdir()
            environ = s3_environ(weed, port=port, prefix=prefix) | QUICK | {"FORGE_NODE_NAME": NAME}
            daemon = DaemonProcess(home, extra=environ | extra)
            closing.push_async_callback(daemon.close)
            await daemon.start()
            return daemon

        yield start


def folder(home: Path) -> Path:
    """Make a folder worth remembering."""
    root = home / "folder"
    (root / MARKER).mkdir(parents=True)
    (root / MARKER / "file").write_text("what was kept of it")
    (root / "other").write_text("other")
    return root


async def digests(node: NodeProcess) -> dict[str, str]:
    """Return the digests of the databases of the machine, compared with their log."""
    said = await node.cli("rebuild", "--verify", "--json")
    assert said.code == 0, said.err
    own = [one for one in json.loads(said.out) if one["projection"].startswith(("snapshot/", "refs/"))]
    return {one["projection"]: one["digest"] for one in own}


async def elsewhere(daemon: DaemonProcess, home: Path, prefix: str, **extra: str) -> NodeProcess:
    """Return another machine to which the history of a daemon was restored."""
    await asyncio.to_thread(home.mkdir)
    own = {"FORGE_S3_PREFIX": f"{prefix}/nodes/{NODE}"}
    kept = {name: value for name, value in daemon.environ.items() if name.startswith("FORGE_")}
    left_out = ("FORGE_DATA_DIR", "FORGE_CACHE_DIR")
    other = NodeProcess(home, extra={n: v for n, v in kept.items() if n not in left_out} | own | extra)
    restored = await other.cli("restore", "--json")
    assert restored.code == 0, restored.err
    return other


async def test_a_killed_machine_is_restored_elsewhere_goes_on_there_and_comes_back(
    start_daemon: StartDaemon, tmp_path: Path, prefix: str
) -> None:
    """PR1, PR3, PR4, G2, G3, G11, spec 44: equal digests, the bytes of files, one history, an epoch for each writer."""
    first = await start_daemon()
    root = folder(first.home)
    assert (await first.snapshot("--keep")).code == 0
    await kill(first.pid)
    await first.start()
    (root / "other").write_text("another")
    assert (await first.snapshot("--keep")).code == 0
    await first.archived("1.6")
    state = json.loads((await first.cli("replicate", "daemon", "--status", "--json")).out)
    assert state["archive"].endswith(f"below {prefix}/nodes/{NODE}/")
    await kill(first.pid)

    other = await elsewhere(first, tmp_path / "b", prefix)
    assert await digests(other) == await digests(first)
    back = await other.cli("snapshot", "restore", str(root), "--to", str(tmp_path / "back"))
    assert back.code == 0, back.err
    assert (tmp_path / "back" / "other").read_text() == "another"
    assert (tmp_path / "back" / MARKER / "file").read_text() == "what was kept of it"
    await _go_on(first, other.home)

    await first.start()
    await first.writes()
    history = await first.cli("snapshot", "history", str(other.home / "folder"), "--json")
    assert len(json.loads(history.out)) == 1
    (root / "new").touch()
    assert (await first.snapshot()).code == 0
    assert (await first.archived("3.10"))["lease"]["epoch"] == 3


async def _go_on(first: DaemonProcess, home: Path) -> None:
    """Let a daemon go on as the first one, on what was restored to `home`."""
    given = {name: value for name, value in first.environ.items() if name.startswith(("FORGE_S3", "FORGE_NODE"))}
    second = DaemonProcess(home, extra=given | QUICK)
    try:
        await second.start()
        await second.writes()
        await asyncio.to_thread(folder, home)
        assert (await second.snapshot()).code == 0
        assert (await second.archived("2.8"))["lease"]["epoch"] == 2
        assert await second.stop() == 0
    finally:
        await second.close()


async def test_snapshots_are_encrypted_and_refs_are_in_the_clear(
    start_daemon: StartDaemon, tmp_path: Path, weed: Weed, prefix: str
) -> None:
    """PR6, G1, G25, spec 46: for those of the settings and for the machine; who has neither key restores nothing."""
    root_key = new_identity()
    root_file = tmp_path / "root.key"
    root_file.write_text(f"{root_key}\n")
    (recipient,) = [one.recipient.public for one in parse_identities(root_key)]
    root_file.chmod(0o600)
    daemon = await start_daemon(FORGE_RECIPIENTS=recipient)
    root = folder(daemon.home)
    assert (await daemon.snapshot("--keep")).code == 0
    await daemon.archived("1.3")
    assert await daemon.stop() == 0
    store = s3_store(weed)
    await store.put(f"{prefix}/log/FORGE_DOCS/mark.json", b"{}")  # a node may archive above it
    lost = await daemon.cli("keys", "list")
    assert (lost.code, f"FORGE_S3_PREFIX={prefix}/nodes/{NODE} forge keys list" in lost.err) == (3, True), lost.out

    below = f"{prefix}/nodes/{NODE}/"
    objects = {found.key.removeprefix(below): (await store.get(found.key)).data for found in await store.list(below)}
    await store.close()
    assert not [key for key, data in objects.items() if MARKER.encode() in _unpacked(data) or b"kept of it" in data]
    sealed = {key for key, data in objects.items() if data.startswith(MAGIC)}
    assert {key.partition("/")[0] for key in sealed} == {"log", "payloads", "gen", "pages"}
    clear = {key for key in objects if key.startswith(("gen/refs/", "clear/pages/"))}
    assert len(clear) >= 3
    assert not clear & sealed
    manifest = next(key for key in clear if key.endswith("/manifest.json"))
    assert Manifest.model_validate_json(objects[manifest]).projection == f"refs/{NODE}"
    assert not [
        key for key in objects if key.startswith(f"gen/snapshot/{NODE.replace('_', '_5f')}/") and key not in sealed
    ]

    with_root = await elsewhere(daemon, tmp_path / "b", prefix, FORGE_IDENTITY_FILE=str(root_file))
    assert (await with_root.cli("snapshot", "restore", str(root), "--to", str(tmp_path / "back"))).code == 0
    stranger = NodeProcess(tmp_path, extra=with_root.environ | {"FORGE_DATA_DIR": str(tmp_path / "c")})
    del stranger.environ["FORGE_IDENTITY_FILE"]
    assert (await stranger.cli("restore")).code == 4
    (tmp_path / "other.key").write_text(f"{new_identity()}\n")
    wrong = {"FORGE_IDENTITY_FILE": str(tmp_path / "other.key")}
    with_root.environ |= wrong | {"FORGE_CACHE_DIR": str(tmp_path / "no bytes")}
    daemon.environ |= wrong
    for told in (
        await with_root.cli("snapshot", "restore", str(root), "--to", str(tmp_path / "not")),
        await daemon.cli("replicate", "daemon"),
    ):
        assert (told.code, "fix:  name a key that opens it" in told.err) == (4, True), told.err


def _unpacked(data: bytes) -> bytes:
    """Return a chunk as the file has it; what is none as it is."""
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=8 << 20)
    except zstandard.ZstdError:
        return data


async def test_a_daemon_without_its_store_goes_on_and_stores_later(
    start_daemon: StartDaemon, weed: Weed, prefix: str
) -> None:
    """PR1, G30: snapshots can be taken, the status says what it waits for."""
    parts = urlsplit(weed.s3_url)
    assert parts.hostname
    assert parts.port
    async with S3Proxy(parts.hostname, parts.port, random.Random(1)) as proxy:
        await asyncio.sleep(0)  # what has not begun to listen cannot end it
        await proxy.refuse()
        daemon = await start_daemon(port=proxy.port)
        folder(daemon.home)
        assert (await daemon.snapshot()).code == 0
        async with asyncio.timeout(ARCHIVED_S):
            while not (await daemon.status())["waits_for"]:  # noqa: ASYNC110 - of another process
                await asyncio.sleep(POLL_S)

        proxy.accept()
        state = await daemon.archived("1.2")
        assert state["waits_for"] == ""
        assert await daemon.stop() == 0


async def test_settings_are_read_again_at_sighup(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """G26: those that are wrong change nothing, and what only a restart changes stays."""
    given = tmp_path / "settings"
    given.write_text("# of this machine\nFORGE_ARCHIVE_SEAL_BYTES=2000\n")
    daemon = await start_daemon()
    await daemon.stop()
    daemon.options = ("--env-file", str(given))
    await daemon.start()
    folder(daemon.home)
    assert (await daemon.snapshot()).code == 0
    await daemon.archived("1.2")

    def logged(event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    async def hang_up(text: str, event: str) -> dict[str, Any]:
        given.write_text(text)
        before = len(logged(event))
        os.kill(daemon.pid, signal.SIGHUP)
        await until(lambda: len(logged(event)) > before)
        return logged(event)[-1]

    wrong = await hang_up("FORGE_ARCHIVE_MEMORY_BYTES=much\n", "settings not read again")
    assert "FORGE_ARCHIVE_MEMORY_BYTES" in wrong["reason"]
    fixed = await hang_up(
        "FORGE_PATH_REFS_DB=/tmp/other.db\n", "settings that only a restart changes stay as they were"
    )
    assert fixed["settings"] == ["refs_db"]
    (daemon.home / "folder" / "new").touch()
    assert (await daemon.snapshot()).code == 0
    await daemon.archived("1.4")
    assert await daemon.stop() == 0


async def test_two_machines_of_one_name_never_write_one_history(start_daemon: StartDaemon) -> None:
    """PR3, G2: the second one refuses to, and says what to do."""
    first = await start_daemon()
    await first.writes()  # else the second may be first
    second = await start_daemon("b")
    for one in (first, second):
        folder(one.home)

    refused = await second.snapshot()

    assert refused.code == 6
    assert "FORGE_NODE_NAME" in refused.err
    assert (await first.snapshot()).code == 0
    assert "FORGE_NODE_NAME" in (await second.status())["waits_for"]


async def test_a_full_node_archives_what_its_machine_remembers(start_node: StartNode, weed: Weed, prefix: str) -> None:
    """PR4: in the partition of its name, like every other one, and through the node that runs."""
    node = await start_node(extra=s3_environ(weed, prefix=prefix) | QUICK | {"FORGE_NODE_NAME": NAME})
    root = folder(node.home)
    assert (await node.cli("snapshot", "create", str(root), "--keep")).code == 0

    async with asyncio.timeout(60):
        while True:
            said = json.loads((await node.cli("replicate", "status", "--json")).out)
            (own,) = [one for one in said["partitions"] if one["partition"] == f"node/{NODE}"]
            if own["archived"] == "1.3":
                break
            await asyncio.sleep(0.1)
    listed = json.loads((await node.cli("snapshot", "history", str(root), "--json")).out)
    assert [one["path"] for one in listed] == [str(root)]
    made = json.loads((await node.cli("replicate", "generation", f"snapshot/{NODE}", "--json")).out)
    assert [one["result"] for one in made] in (["made"], ["unchanged"])
    then = await node.cli("restore", f"snapshot/{NODE}", "--at", "1.2", "--to", "then.db")
    assert then.code == 0, then.err


async def test_a_daemon_says_what_it_lacks(tmp_path: Path) -> None:
    """Spec 2.7, 5.1: a bucket, and a name."""
    daemon = DaemonProcess(tmp_path)

    no_bucket = await daemon.cli("replicate", "daemon")
    no_name = await daemon.cli("replicate", "daemon", "--node-name", " ")
    not_there = await daemon.cli("replicate", "daemon", "--status")

    assert (no_bucket.code, no_name.code) == (2, 2)
    assert "FORGE_S3_BUCKET is not set" in no_bucket.err
    assert "a node needs a name" in no_name.err
    assert (not_there.code, f"nothing runs on {daemon.data}" in not_there.err) == (6, True), not_there.err
