"""Callers of a commit loop of notes, and what they find in the log."""

import asyncio
import threading
from typing import Any

import apsw
import pytest

from events.cursor import Cursor
from events.log import Log
from events.read import read
from projectors.domain import Decision
from projectors.outcome import Answer
from projectors.partition import Partition
from schemas.facts import Command
from schemas.ids import PartitionId
from schemas.problems import Refusal
from tests.notes import (
    AddNotes,
    decide,
    eventually,
)

WAIT_S = 60.0


class Gate:
    """Holds the deciding of commands that ask for it, as a slow disk would."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def decide(self, db: apsw.Connection, command: Command, now: str) -> Decision:
        decision = decide(db, command, now)
        if isinstance(command, AddNotes) and command.texts[:1] == ("slow",):
            self.entered.set()
            assert self.opened.wait(WAIT_S)
        return decision


async def submit(running: Partition, *notes: str, **options: Any) -> Answer:
    names = {name: options.pop(name) for name in ("refused", "broken") if name in options}
    return await running.submit(AddNotes(texts=notes, **names), principal="root", **options)


async def held(running: Partition, gate: Gate) -> "asyncio.Task[Answer]":
    """Return a command that is being decided, so that those after it must wait in the queue."""
    slow = asyncio.create_task(submit(running, "slow"))
    await asyncio.to_thread(gate.entered.wait, WAIT_S)
    return slow


async def queued(running: Partition, *commands: Any) -> list["asyncio.Task[Answer]"]:
    """Return tasks of commands that wait in the queue, in order."""
    tasks = [asyncio.create_task(command) for command in commands]
    await eventually(lambda: running.waiting == len(tasks))
    return tasks


async def problem_of(command: Any) -> Any:
    with pytest.raises(Refusal) as raised:
        await command
    return raised.value.problem


async def logged(event_log: Log, partition: PartitionId) -> list[tuple[str, list[str]]]:
    """Return position and texts of every record."""
    found = []
    async for entry in read(event_log.reader, partition, Cursor.start(partition)):
        found.append((str(entry.record.position), [event["data"]["text"] for event in entry.record.envelopes()]))
    return found
