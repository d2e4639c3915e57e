"""A process that writes notes into one partition and journals what it was told; run by test_two_writers."""

import asyncio
import sys
from pathlib import Path

from pydantic import BaseModel

from events.log import Log
from projectors.partition import Partition
from schemas.ids import PartitionId, Position
from schemas.problems import OUTCOME_UNKNOWN, Refusal
from tests.faults.history import History
from tests.notes import AddNotes, notes_domain, opened_partition

READY = "ready"


class Orders(BaseModel):
    """What to write, where, and in whose name."""

    name: str
    writer_url: str
    reader_url: str
    monitor_url: str
    partition: str
    directory: Path
    journal: Path
    callers: int
    commands_each: int


async def main(orders: Orders) -> None:
    """Write all notes with several callers at once; every command has an id, and only unknown outcomes are retried."""
    event_log = Log(orders.writer_url, orders.monitor_url, reader_url=orders.reader_url)
    orders.directory.mkdir(parents=True, exist_ok=True)
    try:
        with orders.journal.open("a") as journal:
            history: History[Position] = History(journal)
            partition = PartitionId.parse(orders.partition)
            async with opened_partition(event_log, partition, notes_domain(orders.directory)) as running:
                await running.ready(60)
                print(READY, flush=True)
                await asyncio.gather(*(_call(orders, running, history, caller) for caller in range(orders.callers)))
    finally:
        await event_log.close()


async def _call(orders: Orders, running: Partition, history: History[Position], caller: int) -> None:
    for number in range(orders.commands_each):
        name = f"{orders.name}-{caller}-{number}"
        while not await _ask(running, history, name):
            pass


async def _ask(running: Partition, history: History[Position], name: str) -> bool:
    attempt = history.invoke(name)
    try:
        answer = await running.submit(AddNotes(texts=(name,)), principal="root", command_id=name, timeout_s=2)
    except Refusal as refusal:
        if refusal.problem.type == OUTCOME_UNKNOWN.uri:
            return False
        history.refused(attempt)
        return True
    history.answered(attempt, answer.position)
    return True


if __name__ == "__main__":
    asyncio.run(main(Orders.model_validate_json(sys.argv[1])))
