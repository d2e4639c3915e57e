"""A message for all who listen at this moment: each gets a copy, and none waits for another."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from api.answer import cancel_all
from api.leaving import given_up_when_client_leaves
from api.relay import metrics
from api.relay.channel import Key
from api.relay.delivery import fed
from api.relay.grammar import Doing
from api.relay.intake import bring
from api.relay.metrics import BROADCAST
from api.relay.offer import Copy, Message
from api.relay.relay import Relay
from api.routes import Reply, Request
from schemas.problems import RELAY_BROKEN

DELIVERED = "Patch-Delivered"
STALLED_S = 10.0
"""A listener that takes nothing for so long is dropped."""
LOOK_S = 1.0


async def publish(relay: Relay, request: Request[Any], key: Key, doing: Doing) -> Reply:
    """Send a message to all who listen now; answer how many had all of it."""
    brought = await bring(relay, request, BROADCAST, doing)
    sharing = Sharing(brought.message)
    try:
        for turn in relay.offers.take_turns(key):
            turn.set_result(sharing.copy())
        with given_up_when_client_leaves(request, 0):
            await sharing.finished(brought.rest)
    finally:
        sharing.leave()
    return Reply(200, headers=[*brought.told, (DELIVERED, str(sharing.delivered))])


class Sharing:
    """The copies of one message, and how many of them were delivered."""

    def __init__(self, message: Message) -> None:
        self.delivered = 0
        self._message = message
        self._copies: set[Copy] = set()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = False

    def copy(self) -> Copy:
        """Return a copy for one more receiver."""
        copy = Copy(self._message, self._settled)
        self._copies.add(copy)
        return copy

    async def finished(self, rest: AsyncIterator[bytes]) -> None:
        """Return once every receiver has all of it or was dropped, and all of the body has arrived."""
        body = self._message.body
        if not self._copies:
            body.discard()
            await body.fill(rest)
            return
        watching = asyncio.ensure_future(self._drop_who_stalls())
        try:
            await fed(self._ended, None if body.complete else body.fill(rest), needed=lambda: True)
        finally:
            await cancel_all([watching])

    def leave(self) -> None:
        """The sender is answered, or has gone: what has arrived whole is still delivered to those who have begun."""
        self._left = True
        if not self._copies or not self._message.body.complete:
            self._message.body.close()

    def _settled(self, copy: Copy) -> None:
        self._copies.discard(copy)
        self.delivered += bool(copy.complete)
        metrics.delivered(BROADCAST, None if copy.complete else RELAY_BROKEN.problem("the receiver broke off"))
        if self._copies:
            return
        if self._left:
            self._message.body.close()
        else:
            self._message.body.discard()
        if not self._ended.done():
            self._ended.set_result(None)

    async def _drop_who_stalls(self) -> None:
        loop = asyncio.get_running_loop()
        moved: dict[Copy, tuple[int, float]] = {}
        while True:
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            for copy in list(self._copies):
                reader = copy.reader()
                at, since = moved.get(copy, (-1, now))
                if reader.waits or reader.at != at:
                    moved[copy] = reader.at, now
                elif now - since > STALLED_S:
                    copy.settle(False)
