"""The channels of the older relay that a secret opens: `/h` needs one to write, `/r` one to read."""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from api.inputs import text
from api.relay.acts import perform
from api.relay.aliases import INPUTS, legacy_route
from api.relay.grammar import Act, parse_rest, understand
from api.relay.relay import Relay
from api.routes import Reply, Request, Route, StreamReply
from schemas.problems import METHOD_NOT_ALLOWED, UNAUTHENTICATED, Refusal

WRITE, READ = "h", "r"
METHODS = frozenset({"GET", "POST"})
CHANNEL_BYTES = 16
SECRET = text("secret", "The secret of the channel.")


@dataclass(frozen=True, slots=True)
class RelayHooks:
    """The handlers. Without a `key` there are no such paths.

    They are for those who may use the document `public`, which a node can allow to everybody.
    """

    relay: Relay
    key: str

    def routes(self) -> Sequence[Route]:
        """Return the route table of hooks."""
        if not self.key:
            return ()
        return (
            legacy_route("/h", self.make_write),
            legacy_route("/r", self.make_read),
            legacy_route("/h/{rest:path}", self.write, SECRET, *INPUTS),
            legacy_route("/r/{rest:path}", self.read, SECRET, *INPUTS),
        )

    async def make_write(self, request: Request[Any]) -> Reply:
        """Make a channel that can be read by all who know it, and its secret for writing."""
        return self._make(request, WRITE)

    async def make_read(self, request: Request[Any]) -> Reply:
        """Make a channel that all who know it can write to, and its secret for reading."""
        return self._make(request, READ)

    async def write(self, request: Request[Any]) -> Reply | StreamReply:
        """Relay where writing needs the secret."""
        return await self._relay(request, WRITE)

    async def read(self, request: Request[Any]) -> Reply | StreamReply:
        """Relay where reading needs the secret."""
        return await self._relay(request, READ)

    def _make(self, request: Request[Any], space: str) -> Reply:
        _refuse_other_methods(request.method, {"GET"})
        drawn = secrets.token_hex(CHANNEL_BYTES)
        channel = "-".join((drawn[:8], drawn[8:12], drawn[12:16], drawn[16:20], drawn[20:]))
        return Reply(200, {"channel": channel, "secret": secret_of(self.key, space, channel)})

    async def _relay(self, request: Request[Any], space: str) -> Reply | StreamReply:
        name = parse_rest(request.params["rest"])
        _refuse_other_methods(request.method, METHODS)
        doing = understand(request, name)
        request.require(doing.action, doing.resource)
        if _needs_secret(space, doing.act):
            expected = secret_of(self.key, space, name)
            given = request.query.get("secret") or ""
            if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
                raise Refusal(UNAUTHENTICATED.problem("this needs the secret of the channel, as ?secret="))
        return await perform(self.relay, request, doing, f"/{space}")


def secret_of(key: str, space: str, channel: str) -> str:
    """Return the secret of a channel, as older relays with the same key know it."""
    return hmac.new(key.encode(), f"{space}:{channel}".encode(), sha256).hexdigest()


def _needs_secret(space: str, act: Act) -> bool:
    """Say whether the secret is needed; requests and answers are read and written at once."""
    if act is Act.CONSUME:
        return space == READ
    return space == WRITE or act not in (Act.SEND, Act.PUBLISH)


def _refuse_other_methods(method: str, allowed: set[str] | frozenset[str]) -> None:
    if method not in allowed:
        why = f"a hook does not take {method}"
        raise Refusal(METHOD_NOT_ALLOWED.problem(why), {"allow": ", ".join(sorted(allowed))})
