"""Sensors that publish what they measure, and watchers that see every value of the topics they want, once.

`python sensor_fanout.py measure kitchen cellar` publishes a temperature of each room every second, and
`python sensor_fanout.py watch 'sensors/+/temp'` prints what comes; start any number of either, anywhere. `FORGE_URL`
and `FORGE_TOKEN` say where. A watcher keeps its place in a file: kill it, start it again, and no value is missing.
"""

import argparse
import asyncio
import os
import random
import sys
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from forge.client import ClientError, ForgeClient, Lag
from forge.client.document import Document

DB_ID = "home"
EVERY_S = 1.0


async def measure(home: Document, rooms: Sequence[str], rounds: int | None) -> None:
    """Publish a value of each room, together, every second; the newest is the last value of its topic."""
    celsius = {room: 20.0 for room in rooms}
    done = 0
    while rounds is None or done < rounds:
        for room in rooms:
            celsius[room] += random.uniform(-0.5, 0.5)
        values = [
            {"topic": f"sensors/{room}/temp", "payload": round(celsius[room], 2), "retain": True} for room in rooms
        ]
        try:
            await home.publish_batch(values)
        except ClientError as error:
            if rounds is not None or not error.may_pass:
                raise
            print(f"waiting for the node: {error}", file=sys.stderr, flush=True)
        done += 1
        await asyncio.sleep(EVERY_S if rounds is None else 0)


def read_place(place: Path) -> int:
    """Return the id of the last value that was printed."""
    return int(place.read_text()) if place.exists() else 0


def keep_place(place: Path, id: int) -> None:
    """Note that a value was printed: whoever dies before prints it again, and misses nothing."""
    new = place.with_suffix(".new")
    new.write_text(str(id))
    new.replace(place)  # a place that is half written would be none


async def watch(home: Document, filters: Sequence[str], place: Path, count: int | None) -> None:
    """Print every value that a filter picks, from where this stopped the last time."""
    seen = 0
    async with aclosing(home.subscribe(*filters, since=read_place(place), lagged=say)) as messages:
        async for message in messages:
            print(f"{message.created_at} {message.topic} {message.payload}", flush=True)
            keep_place(place, message.id)
            seen += 1
            if seen == count:
                return


def say(lag: Lag) -> None:
    """Tell what nobody can see any more."""
    print(f"values between {lag.after} and {lag.next} are gone: {lag.reason}", flush=True)


async def main() -> None:
    """Measure, or watch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("rooms", nargs="+")
    measuring.add_argument("--rounds", type=int, help="stop after so many, without pauses")
    watching = commands.add_parser("watch")
    watching.add_argument("filters", nargs="+")
    watching.add_argument("--place", type=Path, default=Path("sensors.place"), help="where the last id is kept")
    watching.add_argument("--count", type=int, help="stop after so many")
    asked = parser.parse_args()

    url, token = os.environ.get("FORGE_URL"), os.environ.get("FORGE_TOKEN")
    if not url or not token:
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    async with ForgeClient(url, token) as forge:
        await forge.documents.create(DB_ID)
        home = forge.db(DB_ID)
        if asked.command == "measure":
            await measure(home, asked.rooms, asked.rounds)
        else:
            await watch(home, asked.filters, asked.place, asked.count)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ClientError as error:
        sys.exit(f"sensor_fanout.py: {error}")
