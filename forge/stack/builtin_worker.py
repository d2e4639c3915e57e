"""The built-in embedding worker as a child of the node."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from forge.stack.child import Bounds, Child, Program
from forge.stack.health import Health, http_health
from forge.stack.port import Port

MODULE = "forge.stack.embedding_server"


class BuiltinWorker:
    """`python -m <module> --port N --parent-pid P`, which answers GET /healthz; its log is in `<data>/worker`.

    `env` is the child's whole environment: none of the node's secrets is in it unless given.
    """

    def __init__(
        self,
        data: Path,
        *,
        module: str = MODULE,
        env: Mapping[str, str] | None = None,
        supervised: bool = True,
        bounds: Bounds | None = None,
        inherit_fds: Sequence[int] = (),
    ) -> None:
        folder = data.absolute() / "worker"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._port = Port()
        options = ("--port", str(self._port.number), "--parent-pid", str(os.getpid()))
        program = Program(
            "embedding-worker",
            (sys.executable, "-m", module, *options),
            log_path=folder / "worker.log",
            env=env or {},
            cwd=folder,
            inherit_fds=tuple(inherit_fds),
        )
        self.child = Child(program, self._health, bounds=bounds, supervised=supervised)

    @property
    def url(self) -> str:
        """HTTP address, without a slash at its end."""
        return f"http://{self._port}"

    async def close(self) -> None:
        """Stop it and give its port back."""
        await self.child.stop()
        self._port.close()

    async def __aenter__(self) -> Self:
        try:
            await self.child.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _health(self) -> Health:
        return await http_health(f"{self.url}/healthz")
