"""A full disk, under everything or under the log alone: what is answered, what is kept, and how it ends."""

import json
from pathlib import Path

import httpx2
import pytest

from tests.acceptance.asking import cid_of, lookup, present, until, upload
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
REASONS = {
    "urn:forge:problem:disk-full",
    "urn:forge:problem:outcome-unknown",
    "urn:forge:problem:unavailable",
}
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


async def refused_while_full(http: httpx2.AsyncClient, name: str) -> tuple[list[bytes], set[str]]:
    """Upload to a full disk; return what was not accepted, and the types of the refusals."""
    refused: list[bytes] = []
    types: set[str] = set()
    for number in range(TRIES):
        one = content(name, number)
        answer = await upload(http, one)  # the client's own timeout is 5 s
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        refused.append(one)
        types.add(answer.json()["type"])
    return refused, types


async def goes_on_by_itself(node: NodeProcess, http: httpx2.AsyncClient, *contents: bytes) -> None:
    """Wait until the node is ready and takes each of `contents`; nobody restarts anything."""
    pid = node.pid

    async def ready() -> bool:
        return (await http.get("/readyz")).status_code == 200

    await until(ready, "the node is ready again", RECOVERY_S)
    for one in contents:

        async def taken(one: bytes = one) -> bool:
            return (await upload(http, one)).status_code in (200, 202)

        await until(taken, "uploads are accepted again", RECOVERY_S)
    await present(http, *contents, within_s=RECOVERY_S)
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
                refused, types = await refused_while_full(http, "refused")
                assert types == {"urn:forge:problem:disk-full"}
                assert "no space left" in (await upload(http, refused[0])).json()["detail"]
                assert set(await lookup(http, *before)) == {"present"}
                assert set(await lookup(http, *refused)) == {"missing"}
                await says_that_the_disk_is_full(node, http)
                ballast.unlink()
                await goes_on_by_itself(node, http, *refused, b"after")
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
                tried = await upload_until_refused(http, disk)
                refused, types = await refused_while_full(http, "refused")
                assert types <= REASONS
                assert set(await lookup(http, *before)) == {"present"}
                ballast.unlink()
                await goes_on_by_itself(node, http, *tried, *refused, b"after")
            await nothing_but(node, *before, *tried, *refused, b"after")
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
                wedged = await upload_until_refused(http, disk)
                refused, types = await refused_while_full(http, "refused")
                assert types <= REASONS
                assert set(await lookup(http, *before)) == {"present"}

                async def restarted() -> bool:
                    return node.child("nats") != pid

                await until(restarted, "the stack restarts nats-server", RECOVERY_S)
                ballast.unlink()
                await goes_on_by_itself(node, http, *wedged, *refused, b"after")
            await nothing_but(node, *before, *wedged, *refused, b"after")
        finally:
            await node.close()


async def upload_until_refused(http: httpx2.AsyncClient, disk: SmallDisk) -> list[bytes]:
    """Upload until the last page of the disk is used up; return all that were sent, accepted or not."""
    sent: list[bytes] = []
    while True:
        sent.append(content("wedged", len(sent), 300))
        if (await upload(http, sent[-1])).status_code == 503:
            return sent
        disk.fill()
        assert len(sent) < 500
