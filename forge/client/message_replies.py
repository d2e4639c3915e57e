"""Messages as a client sees them, and as it publishes them."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from schemas.ids import Position


@dataclass(frozen=True, slots=True)
class Message:
    """A message. Its payload is a JSON value, a str if its type is another textual one, else bytes."""

    id: int
    topic: str
    payload: Any
    content_type: str
    producer: str | None
    created_at: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read the JSON of a message; raise `KeyError`, `ValueError`."""
        if "payload" in body:
            payload = body["payload"]
        elif "payload_text" in body:
            payload = str(body["payload_text"])
        else:
            payload = base64.b64decode(body["payload_base64"], validate=True)
        return cls(int(body["id"]), body["topic"], payload, body["content_type"], body["producer"], body["created_at"])


@dataclass(frozen=True, slots=True)
class Lag:
    """A subscriber was too slow or away for too long: it has seen `after`, and `next` is the first to come.

    Nothing is lost if the reason is `slow`. `pruned`: what was between is gone, by the policy of the document.
    `ahead`: the document was brought back from an older copy, and counts on from there.
    """

    after: int
    next: int
    reason: Literal["slow", "pruned", "ahead"]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read the JSON of a `lagged` event; raise `KeyError`, `ValueError`."""
        return cls(int(body["after"]), int(body["next"]), body["reason"])


@dataclass(frozen=True, slots=True)
class Published:
    """A message that was published; a `duplicate` had been before, under the same dedupe key."""

    id: int
    topic: str
    content_type: str
    size_bytes: int
    created_at: str
    duplicate: bool
    position: Position | None = None

    @classmethod
    def read(cls, body: Mapping[str, Any], position: Position | None, *, duplicate: bool | None = None) -> Self:
        """Read the JSON of what was published; raise `KeyError`, `ValueError`."""
        known = bool(body["duplicate"]) if duplicate is None else duplicate
        size, at = int(body["size_bytes"]), body["created_at"]
        return cls(int(body["id"]), body["topic"], body["content_type"], size, at, known, position)


@dataclass(frozen=True, slots=True)
class Retention:
    """Which messages a document keeps: the newest that keep all of these bounds; None is no bound."""

    max_age_s: int | None = None
    max_count: int | None = None
    max_bytes: int | None = None


def new_message(
    topic: str,
    payload: Any = None,
    *,
    text: str | None = None,
    content_type: str | None = None,
    producer: str | None = None,
    key: str | None = None,
    retain: bool = False,
) -> dict[str, Any]:
    """Return a message as the API takes it: bytes as they are, `text` as text, anything else as JSON.

    `key` is its dedupe key: while a message of the topic with that key is kept, no other is published.
    """
    if text is not None:
        if payload is not None:
            raise ValueError("a message has a payload or a text, not both")
        form: dict[str, Any] = {"payload_text": text}
    elif isinstance(payload, bytes | bytearray | memoryview):
        form = {"payload_base64": base64.b64encode(payload).decode()}
    else:
        form = {"payload": payload}
    more = {"content_type": content_type, "producer": producer, "dedupe_key": key, "retain": retain or None}
    return {"topic": topic, **form} | {name: value for name, value in more.items() if value is not None}
