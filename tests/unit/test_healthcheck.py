"""Probes of supervisors, and settings of older relays that are still there."""

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from forge.cli import healthcheck, main
from forge.old_names import OLD_NAMES, old_names_in


@pytest.fixture
def url() -> Iterator[str]:
    """A server that answers 200 at /healthz and 503 elsewhere."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/healthz" else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_node_that_answers_is_healthy(url: str, tmp_path: Path) -> None:
    """L.69, A.18: the address of a node, or a whole one as older supervisors have it."""
    for asked in (url, f"{url}/", f"{url}/healthz"):
        done = CliRunner().invoke(main, ["healthcheck", "--url", asked, "--data-dir", str(tmp_path)])
        assert (done.exit_code, done.output) == (0, "OK!\n")
    done = CliRunner().invoke(main, ["healthcheck", "--url", url, "--json"])
    assert json.loads(done.output) == {"url": f"{url}/healthz", "status": 200}


def test_any_other_status_and_silence_fail(url: str) -> None:
    """L.69: 503, and a host that is not there."""
    for asked, why in ((f"{url}/readyz", "503"), ("http://127.0.0.1:1", "onnect")):
        done = CliRunner().invoke(main, ["healthcheck", "--url", asked])
        assert done.exit_code == 6
        assert why in done.output


def test_a_node_that_is_stopped_is_not_called_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process is there, so starting another one is no help."""
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = CliRunner().invoke(main, ["healthcheck", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}"])
    assert done.exit_code == 6
    assert "nothing came from it for 0.2 s" in done.output
    assert "forge up" not in done.output


def test_older_settings_are_named_without_their_values() -> None:
    """L.70, L.72: values may be secrets."""
    given = {"SECRET_KEY": "canary", "PATCHWORK_SERVER": "x", "ACL_TTL": " ", "FORGE_LISTEN": ":1"}
    assert [name for name, _ in old_names_in(given)] == ["SECRET_KEY"]
    assert not any("canary" in advice for _, advice in old_names_in(given))
    assert all(len(advice) > 10 for advice in OLD_NAMES.values())
