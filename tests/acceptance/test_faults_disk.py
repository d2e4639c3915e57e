"""A full disk, under everything or under the log alone: what is answered, what is kept, and how it ends."""

import json
from pathlib import Path

import httpx2
import pytest

from schemas.problems import DISK_FULL, OUTCOME_UNKNOWN, UNAVAILABLE
from tests.acceptance.asking import cid_of, lookup, present, ready_again, taken, until, upload
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.acceptance.nothing_lost import read_log
from tests.faults.disk import SmallDisk, small_tmpfs, unavailable

DISK_BYTES = 320 << 20  # a node with less than 256 MiB free is not ready
PAYLOAD_BYTES = 200_000
SMALL = 20
RECOVERY_S = 60.0
ACK_TIMEOUT_MS = 1500
TRIES = 6
REASONS = {DISK_FULL.uri, OUTCOME_UNKNOWN.uri, UNAVAILABLE.uri}
pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def _needs_a_tmpfs() -> None:
    if reason := unavailable():
        pytest.skip(f"NOT TESTED: a full disk: {reason}")


def content(name: str, number: int, size_bytes: int = PAYLOAD_BYTES) -> bytes:
    return f"{name} {number} ".encode().ljust(size_bytes, b".")


async def accepted(http: httpx2.AsyncClient, name: str) -> list[bytes]:
    contents = [content(name, number, 200) for number in range(SMALL)]
    for one in contents:
        assert (await upload(http, one)).status_code == 202
    await present(http, *contents)
    return contents


async def refused_while_full(http: httpx2.AsyncClient) -> dict[bytes, str]:
    """Upload to a full disk; return what was refused, and how."""
    refused: dict[bytes, str] = {}
    for number in range(TRIES):
        one = content("refused", number)
        answer = await upload(http, one)  # the client's own timeout is 5 s
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        refused[one] = answer.json()["type"]
    assert set(refused.values()) <= REASONS
    return refused


async def upload_until_refused(http: httpx2.AsyncClient, disk: SmallDisk) -> dict[bytes, str]:
    """Upload until the last page of the disk is used up; return all that were sent, and how they were refused."""
    sent: dict[bytes, str] = {}
    while set(sent.values()) <= {""}:
        one = content("tried", len(sent), 300)
        answer = await upload(http, one)
        sent[one] = "" if answer.status_code == 202 else answer.json()["type"]
        assert answer.status_code in (202, 503), answer.text
        assert len(sent) < 500
        disk.fill()
    return sent


async def goes_on_by_itself(node: NodeProcess, http: httpx2.AsyncClient, refused: dict[bytes, str]) -> None:
    """Wait until the node is ready and takes what it refused; nobody restarts anything.

    PR3: before it is sent again, nothing that was refused for certain is in the log.
    """
    pid = node.pid
    await ready_again(http, RECOVERY_S)
    await taken(http, b"after", within_s=RECOVERY_S)
    logged = await read_log(node)
    certain = [one for one, kind in refused.items() if kind not in ("", OUTCOME_UNKNOWN.uri)]
    assert [one for one in certain if ("text", cid_of(one)) in logged.accepted] == []
    print(f"{len(refused)} tried, {len(certain)} of them refused for certain")
    await taken(http, *refused, within_s=RECOVERY_S)
    assert node.runs
    assert node.pid == pid


async def nothing_but(node: NodeProcess, *contents: bytes) -> None:
    """PR1, PR3: each is in the log once, nothing else is, and the tools agree."""
    logged = await read_log(node)
    assert set(logged.accepted) == {("text", cid_of(one)) for one in contents}
    assert [key for key, at in logged.accepted.items() if len(at) != 1] == []
    for arguments in (("log", "verify"), ("rebuild", "--verify")):
        checked = await node.cli(*arguments, "--json")
        assert checked.code == 0, checked.out + checked.err


async def test_a_disk_that_is_full_for_everything_refuses_uploads_and_goes_on_when_there_is_space(
    start_node: StartNode,
) -> None:
    """PR1, PR3, PR7: 503 that names the disk; reads go on; a refused upload leaves no payload and no job."""
    with small_tmpfs(DISK_BYTES) as disk:
        node = await start_node(disk=disk.path, extra={"FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS": str(ACK_TIMEOUT_MS)})
        try:
            async with node.http() as http:
                before = await accepted(http, "before")
                ballast = disk.fill()
                refused = await refused_while_full(http)
                assert set(refused.values()) == {DISK_FULL.uri}
                assert "no space left" in (await upload(http, content("refused", 0))).json()["detail"]
                assert set(await lookup(http, *before)) == {"present"}
                assert set(await lookup(http, *refused)) == {"missing"}
                await says_that_the_disk_is_full(node, http)
                ballast.unlink()
                await goes_on_by_itself(node, http, refused)
            await nothing_but(node, *before, *refused, b"after")
        finally:
            await node.close()


async def says_that_the_disk_is_full(node: NodeProcess, http: httpx2.AsyncClient) -> None:
    ready = await http.get("/readyz")
    assert ready.status_code == 503
    disk = next(check for check in ready.json()["checks"] if check["name"] == "disk")
    assert not disk["ok"]
    assert str(node.data) in disk["fix"]
    doctor = await node.cli("doctor", "--json")
    failed = {check["name"] for check in json.loads(doctor.out)["checks"] if check["state"] == "fail"}
    assert doctor.code != 0
    assert "disk space" in failed


def elsewhere(folder: Path, *names: str) -> dict[str, str]:
    """Settings that keep payloads, and the projections called `names`, off the disk that fills."""
    projections = {f"FORGE_PATH_VECTOR_{name.upper()}_DB": str(folder / f"{name}.db") for name in names}
    timeout = {"FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS": str(ACK_TIMEOUT_MS)}
    return {"FORGE_CACHE_DIR": str(folder / "cache")} | projections | timeout


async def test_a_disk_that_is_full_for_a_projection_stops_commands_and_goes_on_when_there_is_space(
    start_node: StartNode, tmp_path: Path
) -> None:
    """PR3, PR4: whatever the log took before the projection failed is folded later, once."""
    with small_tmpfs(DISK_BYTES) as disk:
        node = await start_node(disk=disk.path, extra=elsewhere(tmp_path))
        try:
            async with node.http() as http:
                before = await accepted(http, "before")
                ballast = disk.fill()
                refused = await upload_until_refused(http, disk)
                refused |= await refused_while_full(http)
                assert set(await lookup(http, *before)) == {"present"}
                ballast.unlink()
                await goes_on_by_itself(node, http, refused)
            await nothing_but(node, *before, *refused, b"after")
        finally:
            await node.close()


async def test_a_disk_that_is_full_for_the_log_restarts_its_server_and_loses_nothing(
    start_node: StartNode, tmp_path: Path
) -> None:
    """PR1, PR3, reliability A2: nats-server is wedged by ENOSPC until it is restarted; the stack does that."""
    with small_tmpfs(DISK_BYTES) as disk:
        extra = elsewhere(tmp_path, "queue", "embed")
        node = await start_node(disk=disk.path, extra=extra)
        try:
            async with node.http() as http:
                before = await accepted(http, "before")
                pid = node.child("nats")
                ballast = disk.fill()
                refused = await upload_until_refused(http, disk)
                refused |= await refused_while_full(http)
                assert set(await lookup(http, *before)) == {"present"}

                async def restarted() -> bool:
                    return node.child("nats") != pid

                await until(restarted, "the stack restarts nats-server", RECOVERY_S)
                ballast.unlink()
                await goes_on_by_itself(node, http, refused)
            await nothing_but(node, *before, *refused, b"after")
        finally:
            await node.close()
