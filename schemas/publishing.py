"""The HTTP bodies of messages: what is published, in one of three forms, and what comes back."""

import base64
import binascii
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import from_json, to_json

from schemas.control import RetentionBound
from schemas.messages import (
    BATCH_MESSAGES_MAX,
    CONTENT_TYPE_DEFAULT,
    PAYLOAD_BYTES_MAX,
    ContentType,
    DedupeKey,
    NewMessage,
    Producer,
)
from schemas.problems import BODY_TOO_LARGE, INVALID_BODY, Refusal
from schemas.topics import Topic

TEXT_TYPE = "text/plain"
BYTES_TYPE = "application/octet-stream"
_FORMS = frozenset({"payload", "payload_base64", "payload_text"})


class PublishRequest(BaseModel):
    """A message, with its payload in exactly one form: any JSON value, text, or base64."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: Topic
    payload: Any = None
    payload_base64: str = ""
    payload_text: str = ""
    content_type: ContentType | None = None
    producer: Producer | None = None
    dedupe_key: DedupeKey | None = None
    retain: bool = False

    def message(self, place: str = "") -> NewMessage:
        """Return it with its payload as bytes; refuse (400, 413) what is none. `place` is where it stands."""
        payload, kind = self._bytes(place)
        if len(payload) > PAYLOAD_BYTES_MAX:
            raise payload_too_large()
        return NewMessage(
            topic=self.topic,
            payload=payload,
            content_type=self.content_type or kind,
            producer=self.producer,
            dedupe_key=self.dedupe_key,
            retain=self.retain,
        )

    def _bytes(self, place: str) -> tuple[bytes, str]:
        given = self.model_fields_set & _FORMS
        if len(given) != 1:
            said = " and ".join(sorted(given)) or "none of them"
            why = f"a message has one of payload, payload_text and payload_base64; here is {said}"
            raise Refusal(INVALID_BODY.problem(why, field=f"{place}payload"))
        if "payload" in given:
            return _json(self.payload, place), CONTENT_TYPE_DEFAULT
        if "payload_text" in given:
            return self.payload_text.encode(), TEXT_TYPE
        try:
            return base64.b64decode(self.payload_base64, validate=True), BYTES_TYPE
        except (binascii.Error, ValueError) as error:
            field = f"{place}payload_base64"
            raise Refusal(INVALID_BODY.problem(f"{field} is not base64: {error}", field=field)) from None


class PublishBatchRequest(BaseModel):
    """Messages that are published together, in their order, or not at all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: Annotated[tuple[PublishRequest, ...], Field(min_length=1, max_length=BATCH_MESSAGES_MAX)]


class PublishReply(BaseModel):
    """A message as it was published, now or, if its key was known, before."""

    id: int
    db_id: str
    topic: str
    content_type: str
    size_bytes: int
    created_at: str


class PublishedInBatch(PublishReply):
    """The same, and whether it was published before."""

    duplicate: bool


class PublishBatchReply(BaseModel):
    """The messages of a batch, in their order."""

    messages: Sequence[PublishedInBatch]


class MessageView(BaseModel):
    """A message as subscribers get it: its payload is there in one form, JSON if it is that, else text, else base64."""

    id: int
    db_id: str
    topic: str
    content_type: str
    payload: Any = None
    payload_text: str | None = None
    payload_base64: str | None = None
    producer: str | None = None
    created_at: str


class LaggedView(BaseModel):
    """A subscriber has seen the message `after`, and `next` is the first to come."""

    after: int
    next: int
    reason: Literal["slow", "pruned", "ahead"]


class RetainedReply(BaseModel):
    """The last values of topics, by topic; `next` is the topic to go on after, if there are more."""

    messages: Sequence[MessageView]
    next: str | None = None


class RetentionRequest(BaseModel):
    """Which messages a document keeps: the newest that keep all of these bounds; without any it keeps all."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_age_s: RetentionBound = None
    max_count: RetentionBound = None
    max_bytes: RetentionBound = None


class RetentionReply(BaseModel):
    """Which messages a document keeps; null is no bound."""

    db_id: str
    max_age_s: int | None
    max_count: int | None
    max_bytes: int | None


def _json(payload: Any, place: str) -> bytes:
    """Return JSON in its shortest form; refuse a number that is none, or too large for those who will read it."""
    raw = to_json(payload, inf_nan_mode="constants")
    if b"Infinity" in raw or b"NaN" in raw:
        try:
            from_json(raw, allow_inf_nan=False)
        except ValueError:
            why = f"{place}payload holds a number that JSON cannot tell: NaN, or one that is too large"
            raise Refusal(INVALID_BODY.problem(why, field=f"{place}payload")) from None
    return raw


def payload_too_large() -> Refusal:
    """Return the refusal of a payload past the bound."""
    why = f"the payload of a message has at most {PAYLOAD_BYTES_MAX} bytes"
    return Refusal(BODY_TOO_LARGE.problem(why, fix="Send less, or keep it elsewhere and publish where that is."))
