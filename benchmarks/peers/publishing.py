"""How messages are published to each contestant: the bytes of a request, and the connection that sends it."""

from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, cycle
from typing import Any
from urllib.parse import quote, urlsplit

from benchmarks.peers import mqtt
from benchmarks.peers.caller import Caller
from benchmarks.peers.load import Connection, encode_request
from benchmarks.peers.messages import BATCH, payload
from benchmarks.peers.nats_door import DoorCaller, command

DOCUMENT = "bench"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to publish: `kind` is http, batch, nats or mqtt."""

    kind: str
    port: int
    token: str = ""
    nats_url: str = ""

    def caller(self) -> type[Caller]:
        """Return the connection to use."""
        if self.kind == "nats":
            DoorCaller.url = self.nats_url
            return DoorCaller
        return mqtt.MqttCaller if self.kind == "mqtt" else Connection

    @property
    def caller_port(self) -> int:
        """The port to connect to."""
        return urlsplit(self.nats_url).port or 0 if self.kind == "nats" else self.port

    def request(self, topic: str, text: str) -> bytes:
        """Return the request that publishes one message."""
        match self.kind:
            case "mqtt":
                return mqtt.publish(topic, text.encode())
            case "nats":
                return self._command([self._typed(topic, text)])
            case "batch":
                return self._batch([(topic, text)])
        path = f"/api/v1/db/{DOCUMENT}/messages?topic={quote(topic, safe='')}"
        headers = self._headers | {"Content-Type": "text/plain", "Content-Length": str(len(text))}
        return encode_request("POST", path, headers) + text.encode()

    def requests(self, wanted: Sequence[str]) -> Iterator[bytes]:
        """Yield requests for ever; a batch has `BATCH` messages."""
        names, numbers = cycle(wanted), count(1)
        if self.kind != "batch":
            for number in numbers:
                yield self.request(next(names), payload(number))
        while True:
            yield self._batch([(next(names), payload(next(numbers))) for _ in range(BATCH)])

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def _batch(self, messages: list[tuple[str, str]]) -> bytes:
        said = [{"topic": topic, "payload_text": text} for topic, text in messages]
        return encode_request("POST", f"/api/v1/db/{DOCUMENT}/messages/batch", self._headers, {"messages": said})

    def _typed(self, topic: str, text: str) -> dict[str, Any]:
        return {"topic": topic, "payload": b64encode(text.encode()).decode(), "content_type": "text/plain"}

    def _command(self, messages: list[dict[str, Any]]) -> bytes:
        return command(f"forge.cmd.doc.{DOCUMENT}", self.token, "PublishMessages", {"messages": messages})
