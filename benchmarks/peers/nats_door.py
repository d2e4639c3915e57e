"""As much of the NATS protocol as a benchmark needs: requests to the command door over connections of their own."""

import json
import os
from itertools import count
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from benchmarks.peers.caller import Caller

HEADERS = b"NATS/1.0\r\ncontent-type: application/json\r\n\r\n"
_inboxes = count(1)


def client_url(data: Path) -> str:
    """Return the address of the user for clients at the embedded server of a node's data folder."""
    conf = (data / "nats" / "nats.conf").read_text()
    address = conf.partition('listen: "')[2].partition('"')[0]
    password = json.loads((data / "nats" / "passwords.json").read_text())["client"]
    return f"nats://client:{password}@{address}"


class DoorCaller(Caller):
    """One connection. A request holds `INBOX` where its reply is to go; its answer is the reply's payload."""

    INBOX = b"@@INBOX@@"
    url = ""

    def __init__(self) -> None:
        super().__init__()
        self._rest = b""
        self._inbox = b"_INBOX_client.%d.%d" % (os.getpid(), next(_inboxes))

    @classmethod
    async def open(cls, port: int) -> Self:
        """Connect as the user of `url`, and listen to the inbox."""
        connection = await super().open(port)
        user = urlsplit(cls.url)
        options = {"user": user.username, "pass": user.password, "verbose": False, "headers": True, "lang": "bench"}
        hello = b"CONNECT %s\r\nSUB %s 1\r\nPING\r\n" % (json.dumps(options).encode(), connection._inbox)
        await connection.call(hello)
        return connection

    def send(self, request: bytes, now: float) -> None:
        """See `Caller`."""
        super().send(request.replace(self.INBOX, self._inbox, 1), now)

    def data_received(self, data: bytes) -> None:
        """Take replies, and answer PING."""
        self._rest += data
        while True:
            line, end, rest = self._rest.partition(b"\r\n")
            if not end:
                return
            if line.startswith((b"MSG ", b"HMSG ")):
                size = int(line.rsplit(b" ", 1)[1])
                if len(rest) < size + 2:
                    return
                self._rest = rest[size + 2 :]
                self._take(rest[:size])
                continue
            self._rest = rest
            if line == b"PING":
                assert self._transport is not None
                self._transport.write(b"PONG\r\n")
            elif line == b"PONG":
                self.answered()
            elif line.startswith(b"-ERR"):
                self.failed(line.decode())

    def _take(self, reply: bytes) -> None:
        if b'"problem":null' in reply:
            self.answered(reply)
        else:
            self.failed(reply[-500:].decode(errors="replace"))


def command(subject: str, token: str, name: str, said: dict[str, Any]) -> bytes:
    """Return a request to the door, with `DoorCaller.INBOX` in it."""
    body = json.dumps({"token": token, "name": name, "command": said}).encode()
    sizes = b"%d %d" % (len(HEADERS), len(HEADERS) + len(body))
    return b"HPUB %s %s %s\r\n%s%s\r\n" % (subject.encode(), DoorCaller.INBOX, sizes, HEADERS, body)
