"""`forge doctor`: what it sees, what it calls a failure, and what it leaves behind."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from forge.cli import main
from forge.datadir import DataDir
from forge.doctor.check import Check, State, exit_code
from forge.doctor.machine import existing, sqlite_check
from forge.local_node import target
from tests.conftest import StartNats

Answers = dict[str, tuple[int, Any]]
TOKEN = "forge_secret"
READY = {
    "/readyz": (200, {"checks": [{"name": "log", "ok": True, "value": "1 ms", "limit": "1 s"}]}),
    "/status": (200, {"projections": [{"name": "queue", "position": "1.5", "log_position": "1.9", "lag_records": 4}]}),
    "/predict": (200, {"embedding": [0.5, 0.5]}),
}


@pytest.fixture
def node_dir(tmp_path: Path) -> Iterator[DataDir]:
    """A data directory with a root token, held by this process as a node would."""
    with DataDir.open(tmp_path / "data") as opened:
        token = opened.path / "root.token"
        token.touch(0o600)
        token.write_text(TOKEN)
        yield opened


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], str]]:
    """Start HTTP servers that give fixed answers by path."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = answers.get(self.path, (404, {}))
                if status == 200 and self.path == "/status" and self.headers["Authorization"] != f"Bearer {TOKEN}":
                    status, body = 401, {}
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def doctor(data_dir: Path, *options: str, **environ: str) -> Result:
    places = {"FORGE_DATA_DIR": str(data_dir), "FORGE_CACHE_DIR": str(data_dir / "cache")}
    return CliRunner().invoke(main, ["doctor", "--json", *options], env=places | environ)


def checks(result: Result) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_a_machine_without_a_node_passes(tmp_path: Path) -> None:
    """PR8: nothing has to run, and nothing is left behind."""
    result = doctor(tmp_path / "not" / "yet")
    assert result.exit_code == 0, result.output
    said = checks(result)
    assert {said[name]["state"] for name in ("sqlite", "python", "disk space", "fsync latency")} <= {"ok", "warn"}
    assert {said[name]["state"] for name in ("node", "sync_interval", "worker (text)")} == {"off"}
    assert list(tmp_path.iterdir()) == []


def test_every_line_that_is_not_ok_says_what_to_do(tmp_path: Path, serve: Callable[[Answers], str]) -> None:
    url = serve({"/readyz": (503, {"checks": {"disk": {"ok": False, "value": "full"}}})})
    result = doctor(
        tmp_path, "--url", url, FORGE_VECTOR_WORKER_URL="http://127.0.0.1:1", FORGE_CONNECTIONS_MAX="99999999"
    )
    said = checks(result)
    assert {"node", "node: disk", "worker (text)", "worker (image)"} <= {
        n for n, c in said.items() if c["state"] == "fail"
    }
    assert said["file handles"]["state"] == "warn"
    assert all(check["fix"] for check in said.values() if check["state"] in ("fail", "warn"))
    assert result.exit_code == 6


def test_a_running_node_is_found_by_itself(node_dir: DataDir, serve: Callable[[Answers], str]) -> None:
    node_dir.publish(serve(READY), "node")
    result = doctor(node_dir.path)
    said = checks(result)
    assert result.exit_code == 0, result.output
    assert said["node"]["state"] == "ok"
    assert {name: said["node: log"][name] for name in ("state", "value", "limit", "fix")} == {
        "state": "ok",
        "value": "1 ms",
        "limit": "1 s",
        "fix": "",
    }
    assert said["projection queue"]["value"] == "1.5 of 1.9, 4 behind"


def test_the_root_token_is_sent_to_the_local_node_alone(node_dir: DataDir, serve: Callable[[Answers], str]) -> None:
    """PR6: an address given by hand may be anybody's."""
    url, other = serve(READY), serve(READY)
    node_dir.publish(url, "node")
    assert target(node_dir.path, "", "") == (url, TOKEN)
    assert target(node_dir.path, url + "/", "") == (url, TOKEN)
    assert target(node_dir.path, other, "") == (other, "")
    assert target(node_dir.path, other, "given") == (other, "given")
    assert checks(doctor(node_dir.path, "--url", other))["projections"]["state"] == "off"
    node_dir.withdraw()
    assert target(node_dir.path, "", "") == ("", "")


@pytest.mark.parametrize(
    ("body", "state"),
    [
        ([1.0, 2.0], "ok"),
        ({"vector": [1.0]}, "ok"),
        ({"data": [1.0]}, "ok"),
        ([], "fail"),
        ({}, "fail"),
        ("no", "fail"),
    ],
)
def test_a_worker_must_answer_with_a_vector(
    tmp_path: Path, serve: Callable[[Answers], str], body: Any, state: str
) -> None:
    said = checks(doctor(tmp_path, FORGE_VECTOR_WORKER_URL=serve({"/predict": (200, body)})))
    assert {said["worker (text)"]["state"], said["worker (image)"]["state"]} == {state}


async def test_a_server_that_does_not_fsync_is_a_data_fault(tmp_path: Path, start_nats: StartNats) -> None:
    """PR1: a power cut would lose what was accepted."""
    safe, unsafe = await start_nats(), await start_nats(sync_always=False)
    results = [
        await asyncio.to_thread(doctor, tmp_path, FORGE_NATS_MONITOR_URL=server.monitor_url)
        for server in (safe, unsafe)
    ]
    assert [checks(result)["sync_interval"]["value"] for result in results] == ["always", "120 s"]
    assert [result.exit_code for result in results] == [0, 7]
    with DataDir.open(tmp_path / "node") as opened:
        opened.publish("http://127.0.0.1:1", "node", safe.monitor_url)
        assert checks(await asyncio.to_thread(doctor, opened.path))["sync_interval"]["value"] == "always"
    three = await asyncio.to_thread(
        doctor, tmp_path, FORGE_NATS_MONITOR_URL=unsafe.monitor_url, FORGE_NATS_REPLICAS="3"
    )
    assert three.exit_code == 7  # the node refuses to write there too: the power may fail for all three


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("3.40.1", State.FAIL),
        ("3.51.2", State.FAIL),
        ("3.51.3", State.OK),
        ("3.52.0", State.FAIL),
        ("3.53.0", State.OK),
        ("3.54.1", State.OK),
    ],
)
def test_sqlite_must_have_the_fix_of_the_wal_reset(version: str, state: State) -> None:
    check = sqlite_check(version)
    assert (check.state, check.fault) == (state, 7)


def test_a_data_fault_outranks_what_is_not_ready() -> None:
    off, warn = Check("a", State.OFF, ""), Check("b", State.WARN, "", fault=7)
    late, fault = Check("c", State.FAIL, ""), Check("d", State.FAIL, "", fault=7)
    assert [exit_code(c) for c in ([off, warn], [late, off], [late, fault, warn])] == [0, 6, 7]


def test_a_folder_that_does_not_exist_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert existing(tmp_path / "a" / "b") == tmp_path


def test_people_get_aligned_lines(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--data-dir", str(tmp_path)])
    assert result.stdout.splitlines()[0].split() == ["STATE", "CHECK", "VALUE", "LIMIT", "FIX"]
    assert any(line.startswith("ok") and "sqlite" in line for line in result.stdout.splitlines())
