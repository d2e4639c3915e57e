"""Turns records on their way to followers into the items of the change feed, large ones in a thread."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from events.envelope import Event
from projectors.document.history.changes import EVERYTHING, Selection, encode_changes
from projectors.document.history.feed import Passing
from projectors.threads import Threads
from schemas.facts import Fact

INLINE_BYTES = 4096  # payload of records that are decoded at once


@dataclass(frozen=True, slots=True)
class Decoder:
    """`facts` are those of documents by type. All methods raise `MalformedRecord` or `UnknownEvent`."""

    facts: Mapping[str, type[Fact]]
    threads: Threads

    async def wants(self, passing: Passing, selection: Selection) -> bool:
        """Say whether a record holds anything that is selected."""
        if selection.tables:
            return any(selection.takes(event.fact) for event in await self._events(passing))
        return True

    async def items(self, passing: Passing, selection: Selection = EVERYTHING) -> AsyncGenerator[bytes]:
        """Yield the JSON items of one record that are selected, one at a time."""
        for event in await self._events(passing):
            if selection.takes(event.fact):
                async for item in self._items(passing, event, selection):
                    yield item

    async def by_event(self, passing: Passing, selection: Selection) -> list[bytes]:
        """Return the JSON items of each selected event of one record, those of one event with commas between."""
        return [
            b",".join([item async for item in self._items(passing, event, selection)])
            for event in await self._events(passing)
            if selection.takes(event.fact)
        ]

    async def _items(self, passing: Passing, event: Event, selection: Selection) -> AsyncGenerator[bytes]:
        items = encode_changes(passing.entry.cursor.position, event, selection)
        if not _heavy(passing):
            for item in items:
                yield item
            return
        while (item := await self.threads.run(next, items, b"")) != b"":
            yield item

    async def _events(self, passing: Passing) -> list[Event]:
        if _heavy(passing):
            return await self.threads.run(passing.events, self.facts)
        return passing.events(self.facts)


def _heavy(passing: Passing) -> bool:
    return len(passing.entry.record.payload) > INLINE_BYTES
