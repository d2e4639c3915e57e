"""How a sender's request becomes a message: what it says is checked, its body read ahead, and stored if asked to."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from api.relay import metrics
from api.relay.body import SPOOL_BYTES, Body
from api.relay.grammar import Doing
from api.relay.headers import metadata
from api.relay.offer import Message
from api.relay.relay import Relay
from api.routes import Request
from schemas.problems import BODY_TOO_LARGE, NOT_IMPLEMENTED, Refusal

MESSAGE_ID = "Forge-Message-Id"


@dataclass(frozen=True, slots=True)
class Brought:
    """A message, where the rest of its body comes from, and what its sender is told of it."""

    message: Message
    rest: AsyncIterator[bytes]
    told: list[tuple[str, str]]

    @contextmanager
    def told_in_any_case(self) -> Iterator[None]:
        """Tell the sender of a refusal too: what was stored for him stays, and he may send again."""
        try:
            yield
        except Refusal as refusal:
            if not self.told:
                raise
            raise Refusal(refusal.problem, {**refusal.headers, **dict(self.told)}) from refusal


async def bring(relay: Relay, request: Request[Any], kind: str, doing: Doing) -> Brought:
    """Read what somebody sends; `Refusal` (400, 403, 413, 503) before anything of it is offered."""
    options = doing.options
    about = metadata(request, default_type=doing.default_type, automatic=relay.automatic)
    if options.tee is not None:
        if relay.tee is None:
            raise Refusal(NOT_IMPLEMENTED.problem("this node stores nothing of what is relayed"))
        request.require("pub.publish", options.tee)
    source, announced = request.stream(), _announced(request)
    if options.text:
        await _drain(source)
        source, announced = _only(options.text.encode()), None
    share = relay.budget.of(request.db_id)
    body = Body(share, announced)
    try:
        await body.spool(source)
        told = []
        if options.tee is not None:
            told.append((MESSAGE_ID, str(await _store(relay, request, options.tee, body, about.content_type))))
        if options.discard:  # nobody is given it; what is stored is what was sent
            await _drain(source)
            body.close()
            body = Body(share)
            await body.spool(_only(b""))
    except BaseException:
        body.close()
        raise
    metrics.MESSAGES.labels(kind).inc()
    return Brought(Message(about, body), source, told)


async def _store(relay: Relay, request: Request[Any], topic: str, body: Body, content_type: str) -> int:
    assert relay.tee is not None
    if not body.complete:
        raise Refusal(BODY_TOO_LARGE.problem(f"what is stored as a message too has at most {SPOOL_BYTES} bytes"))
    return await relay.tee(request, topic, body.whole(), content_type)


def _announced(request: Request[Any]) -> int | None:
    """Return the length that the server holds the sender to."""
    length = request.headers.get("content-length")
    return int(length) if length is not None else None


async def _drain(source: AsyncIterator[bytes]) -> None:
    async for _ in source:
        pass


async def _only(data: bytes) -> AsyncIterator[bytes]:
    yield data
