"""Shell scripts of users of the relay, run with real curl against a real node."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import httpx2

from tests.acceptance.asking import until
from tests.acceptance.node_process import Finished, NodeProcess

SCRIPT_S = 180.0
TIMED_OUT = 124
QUIET_S = 60.0
GAUGES = ("forge_relay_waiting", "forge_relay_channels", "forge_relay_requests_open", "forge_relay_buffered_bytes")
PRELUDE = r"""
set -eu
patchwork() { sh "$CLIENT" "$@"; }

# Wait until so many receivers or senders wait at the relay.
waiting() {
    until curl -s -H "Authorization: Bearer $ROOT" "$URL/metrics" | grep -q "^forge_relay_waiting{side=\"$1\"} $2\.0"
    do sleep 0.05; done
}

# Wait until a file has so many lines.
lines() {
    until [ "$(cat "$1" 2>/dev/null | wc -l)" -ge "$2" ]; do sleep 0.05; done
}

# What a request is answered with: its status.
status() { curl -s -o /dev/null -w '%{http_code}\n' "$@"; }
"""


@dataclass(frozen=True)
class RelayNode:
    """A node whose relay scripts use; `folder` is where they run."""

    node: NodeProcess
    folder: Path
    client: Path

    async def run(self, script: str, within_s: float = SCRIPT_S, **environ: str) -> str:
        """Run a script to its end, which must be a good one; return what it printed."""
        done = await self.ends(script, within_s, **environ)
        assert done.code == 0, f"ended with {done.code}\n{done.out}\n{done.err}"
        return done.out

    async def ends(self, script: str, within_s: float = SCRIPT_S, **environ: str) -> Finished:
        """Run a script to its end; everything that it started ends with it."""
        with TemporaryFile() as out, TemporaryFile() as err:
            process = await asyncio.create_subprocess_exec(
                *("sh", "-c", PRELUDE + script),
                cwd=self.folder,
                env=self._environ(environ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            code = 0
            try:
                async with asyncio.timeout(within_s):
                    code = await process.wait()
            except TimeoutError:
                code = TIMED_OUT
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            out.seek(0)
            err.seek(0)
            return Finished(code, out.read().decode(), err.read().decode())

    def _environ(self, more: Mapping[str, str]) -> dict[str, str]:
        url, root = self.node.url, self.node.token
        known = {"URL": url, "PATCHWORK_SERVER": url, "ROOT": root, "CLIENT": str(self.client)}
        return self.node.environ | known | dict(more)

    async def create(self, db_id: str) -> None:
        """Make a document."""
        async with self.node.http() as http:
            assert (await http.post("/api/v1/db", json={"db_id": db_id})).status_code in (200, 201)

    async def mint(self, *scopes: tuple[str, str], url: bool = True) -> str:
        """Return a new token, for URLs unless told otherwise; scopes are an action and a document."""
        granted = [{"action": action, "db_id": db_id} for action, db_id in scopes]
        async with self.node.http() as http:
            made = await http.post("/api/v1/admin/tokens", json={"label": "script", "scopes": granted, "url": url})
            assert made.status_code == 201, made.text
            return str(made.json()["token"])

    @asynccontextmanager
    async def anybody(self, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
        """Give an HTTP client without a token."""
        usual: dict[str, Any] = {"base_url": self.node.url, "timeout": 30, "trust_env": False}
        async with httpx2.AsyncClient(**usual | options) as http:
            yield http

    async def gauges(self) -> dict[str, float]:
        """Return what the relay keeps at this moment."""
        async with self.node.http() as http:
            text = (await http.get("/metrics")).text
        rows = (line.rpartition(" ") for line in text.splitlines() if line.startswith(GAUGES))
        return {name: float(value) for name, _, value in rows}

    async def waits(self, receivers: int = 0, senders: int = 0) -> None:
        """Wait until so many wait."""

        async def so_many() -> bool:
            found = await self.gauges()
            wanted = {"receivers": receivers, "senders": senders}
            return all(found[f'forge_relay_waiting{{side="{side}"}}'] == count for side, count in wanted.items())

        await until(so_many, f"{receivers} receivers and {senders} senders wait", QUIET_S)

    async def quiet(self) -> None:
        """Wait until the relay keeps nothing (S13)."""

        async def nothing() -> bool:
            return not any((await self.gauges()).values())

        await until(nothing, "the relay keeps nothing", QUIET_S)
