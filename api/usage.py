"""Remembers when tokens were last used: at most one fact a minute, for all of them."""

import asyncio
from contextlib import suppress

from api.credentials import TokenCredentials
from projectors.control.domain import PARTITION
from projectors.partitions import Partitions
from schemas.control import NoteTokensUsed
from schemas.problems import Refusal

EVERY_S = 60.0
TIMEOUT_S = 10.0


async def note_use(credentials: TokenCredentials, partitions: Partitions, *, every_s: float = EVERY_S) -> None:
    """Note the tokens used, for ever. What cannot be noted, because the log is away, is lost: it is a hint only."""
    while True:
        await asyncio.sleep(every_s)
        if used := credentials.take_used():
            with suppress(Refusal):
                command = NoteTokensUsed(token_ids=used)
                await partitions.submit(PARTITION, command, principal="forge", timeout_s=TIMEOUT_S)
