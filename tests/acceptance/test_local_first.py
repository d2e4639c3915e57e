"""One machine, nothing configured: what a node touches, and what it tells its log."""

import json
import struct
import subprocess
import sys
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess, users_of

CANARY = "canary-7f3c9a"
NOT_CONNECTED = {"0.0.0.0", "::"}


def addresses(pid: int) -> set[tuple[str, str]]:
    """Return (own, other) address of every internet socket that a process has."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            inodes.add(link.readlink().name)
    found = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes:
                found.add((str(parse(fields[1])), str(parse(fields[2]))))
    return found


def parse(text: str) -> IPv4Address | IPv6Address:
    """Read an address as /proc/net writes it: words of 32 bits in the order of this machine."""
    raw = bytes.fromhex(text.partition(":")[0])
    packed = b"".join(struct.pack("=I", word) for word in struct.unpack(f">{len(raw) // 4}I", raw))
    address = ip_address(packed)
    return getattr(address, "ipv4_mapped", None) or address


def program(pid: int) -> str:
    """Return the name of what a process runs."""
    return Path(f"/proc/{pid}/comm").read_text().strip()


async def use(node: NodeProcess) -> None:
    """Make a document, write, read, and follow it, as a user does at first."""
    assert (await node.cli("db", "create", "notes")).code == 0
    assert (await node.cli("db", "sql", "notes", "CREATE TABLE t (a)")).code == 0
    async with node.http() as http:
        body = {"sql": "INSERT INTO t VALUES (?)", "args": [f"{CANARY}-argument"]}
        assert (await http.post("/api/v1/db/notes/query/exec", json=body)).status_code == 200
        assert (await http.get("/api/v1/db/notes/changes?after=0")).status_code == 200
        assert (await http.get("/api/v1/db/notes/snapshot/latest")).status_code == 200


async def test_a_node_speaks_with_nobody_outside_of_its_machine(start_node: StartNode) -> None:
    """PR8, K0.4: every socket of the node and its children is on the loopback interface; nothing else is started."""
    node = await start_node()
    await use(node)
    pids = {node.pid, *users_of(node.data)}
    seen = {pair for pid in pids for pair in addresses(pid)}

    assert len(pids) >= 2, "the log server was not found"
    assert any(other not in NOT_CONNECTED for _, other in seen), "no connection was found, so this proves nothing"
    for own, other in seen:
        assert ip_address(own).is_loopback, (own, other)
        assert other in NOT_CONNECTED or ip_address(other).is_loopback, (own, other)
    assert set(map(program, pids)) <= {"forge", "python", "nats-server"}


def test_what_is_opt_in_is_not_even_imported() -> None:
    """PR8, K0.4: a node without S3 loads no code for it."""
    asked = "import sys, forge.embedded; print({'boto3', 'botocore', 'obstore', 'pyrage'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_every_request_has_its_line_and_no_line_has_a_secret_or_a_value(start_node: StartNode) -> None:
    """P0.14, PR6: at the most talkative level, with secrets and values wherever a caller can put them."""
    node = await start_node(extra={"FORGE_LOG_LEVEL": "debug"})
    await use(node)
    async with node.http() as http:
        for headers in ({"authorization": f"Bearer forge_{CANARY}"}, {"cookie": f"token={CANARY}"}):
            await http.get("/api/v1/db/notes", headers=headers)
        await http.get(f"/api/v1/db/{CANARY}-document/changes?after={CANARY}&token={CANARY}")
        await http.get(f"/{CANARY}-path")
        for sql in (f"SELECT '{CANARY}' FROM nowhere", f"SELECT {CANARY}"):
            await http.post("/api/v1/db/notes/query/exec", json={"sql": sql, "args": [CANARY]})
        last = await http.get("/status", headers={"x-request-id": "the-last-one"})
        assert last.headers["x-request-id"] == "the-last-one"
    assert await node.stop() == 0

    text = node.log.read_text()
    assert CANARY not in text
    assert node.token not in text
    lines = [json.loads(line) for line in text.splitlines()]
    (line,) = [line for line in lines if line.get("request_id") == "the-last-one"]
    assert line["route"] == "/status"
    assert line["status"] == 200
    assert line["principal"] == "root"
    assert line["seconds"] > 0
    routes = {line["route"] for line in lines if line["event"] == "request"}
    assert routes >= {"/api/v1/db/{db_id}/query/exec", "/api/v1/db/{db_id}/changes", "unmatched"}
