"""Filters and topics against a real Mosquitto: what it delivers is what we would."""

import asyncio
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.peers import mqtt
from benchmarks.peers.mosquitto import mosquitto
from projectors.document.messages.filter_tree import FilterTree
from schemas.topics import check_filter, matches
from tests.faults.killer import fresh_seed

FILTERS, TOPICS = 125, 80  # each filter with each topic: 10,000 pairs
ROUNDS_LONG = 20
LEVELS = ("a", "b", "aa", "", "$a", "é", "a b", "+a")
END = "the/end/of/this/test"
WITHIN_S = 30.0

pytestmark = pytest.mark.skipif(
    not shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/sbin"), reason="needs mosquitto (Debian)"
)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A broker with a store of its own."""
    with mosquitto(tmp_path / "mosquitto") as broker:
        yield broker.port


class Client:
    """A session with the broker, as bare packets."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self._rest = b""
        self._packets: list[tuple[int, bytes]] = []

    @classmethod
    async def open(cls, port: int) -> "Client":
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        client.writer.write(mqtt.connect())
        kind, _ = await client.packet()
        assert kind == mqtt.CONNACK
        return client

    async def packet(self) -> tuple[int, bytes]:
        """Return the next packet; raise `EOFError` if the broker has hung up."""
        while not self._packets:
            data = await asyncio.wait_for(self.reader.read(65536), WITHIN_S)
            if not data:
                raise EOFError
            self._packets, self._rest = mqtt.split(self._rest + data)
        return self._packets.pop(0)

    async def subscribe(self, *filters: str) -> bool:
        """Say whether the broker takes the filters."""
        try:
            self.writer.write(mqtt.subscribe(*filters))
            kind, body = await self.packet()
        except (EOFError, ConnectionError):
            return False
        return kind == mqtt.SUBACK and 0x80 not in body[2:]

    async def publish(self, topic: str) -> None:
        self.writer.write(mqtt.publish(topic, b""))
        kind, _ = await self.packet()
        assert kind == mqtt.PUBACK, topic

    async def heard(self) -> set[str]:
        """Return the topics of all messages before the one that ends it."""
        topics: set[str] = set()
        while END not in topics:
            kind, body = await self.packet()
            assert kind & 0xF0 == mqtt.PUBLISH
            size = int.from_bytes(body[:2], "big")
            topics.add(body[2 : 2 + size].decode())
            self.writer.write(mqtt.puback(body[2 + size : 4 + size]))
        return topics - {END}

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def some(rng: random.Random, levels: Sequence[str], count: int) -> list[str]:
    """Return different texts of some levels."""
    found: set[str] = set()
    while len(found) < count:
        text = "/".join(rng.choice(levels) for _ in range(rng.choice((1, 2, 2, 3, 3, 4))))
        if text and not text.startswith("$share"):
            found.add(text)
    return sorted(found)


@pytest.mark.parametrize("rounds", [1, pytest.param(ROUNDS_LONG, marks=pytest.mark.long)])
async def test_ten_thousand_pairs_of_filter_and_topic_agree(port: int, rounds: int) -> None:
    """P3.8: each filter in a session of its own hears exactly what it picks, by the rule and by the tree."""
    rng = random.Random(seed := fresh_seed())
    print(f"seed {seed}")
    for _ in range(rounds):
        plain = [level for level in LEVELS if "+" not in level]
        topics = some(rng, plain, TOPICS)
        filters = [one for one in some(rng, (*plain, "+", "+", "#"), 3 * FILTERS) if _valid(one)][:FILTERS]
        assert len(filters) == FILTERS
        sessions = [await Client.open(port) for _ in filters]
        for session, pattern in zip(sessions, filters, strict=True):
            assert await session.subscribe(pattern, END)
        publisher = await Client.open(port)
        for topic in (*topics, END):
            await publisher.publish(topic)
        heard = await asyncio.gather(*(session.heard() for session in sessions))
        tree: FilterTree[str] = FilterTree()
        for pattern in filters:
            tree.add(pattern, pattern)
        for pattern, delivered in zip(filters, heard, strict=True):
            assert {topic for topic in topics if matches(pattern, topic)} == delivered, pattern
            assert {topic for topic in topics if pattern in tree.find(topic)} == delivered, pattern
        for client in (*sessions, publisher):
            await client.close()


async def test_what_is_no_filter_is_none_there_either(port: int) -> None:
    """P3.8: where wildcards may stand."""
    rng = random.Random(seed := fresh_seed())
    print(f"seed {seed}")
    for _ in range(300):
        pattern = "".join(rng.choice("a/+#$") for _ in range(rng.randint(1, 6)))
        client = await Client.open(port)
        assert await client.subscribe(pattern) is _valid(pattern), pattern
        await client.close()


def _valid(pattern: str) -> bool:
    try:
        check_filter(pattern)
    except ValueError:
        return False
    return True
