"""Files that come with Forge and are served to everybody as they are: the shell client of the relay."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from api.routes import PUBLIC, Reply, Request, Route

SHELL_CLIENT_PATH = "/static/patchwork.sh"
_FRESH_S = 3600


@dataclass(frozen=True, slots=True)
class StaticFiles:
    """The handlers."""

    shell_client: bytes = field(default_factory=lambda: read_static("patchwork.sh"))

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        return (
            Route(
                "GET",
                SHELL_CLIENT_PATH,
                PUBLIC,
                self.patchwork,
                summary="The shell client of the stream relay",
                replies={200: "a program for sh"},
                media={200: ("text/x-shellscript",)},
            ),
        )

    async def patchwork(self, _: Request[Any]) -> Reply:
        """Return the shell client."""
        headers = {"cache-control": f"max-age={_FRESH_S}", "x-content-type-options": "nosniff"}
        return Reply(200, self.shell_client, headers, "text/x-shellscript; charset=utf-8")


def read_static(name: str) -> bytes:
    """Return a file of the package."""
    return files("api").joinpath("static", name).read_bytes()
