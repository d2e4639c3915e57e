"""The body of a publish: a JSON object that describes a message, or the payload itself."""

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.body import says_json
from api.headers import Headers
from api.places import flag
from api.problems import invalid_body
from api.routes import Request
from schemas.messages import BATCH_BYTES_MAX, PAYLOAD_BYTES_MAX, NewMessage
from schemas.problems import BODY_TOO_LARGE, INVALID_BODY, UNSUPPORTED_MEDIA_TYPE, Refusal
from schemas.publishing import BYTES_TYPE, TEXT_TYPE, PublishBatchRequest, PublishRequest, payload_too_large

OBJECT_BYTES_MAX = 6 * PAYLOAD_BYTES_MAX + (64 << 10)  # each byte of a text may be written as \u0000
BATCH_BODY_BYTES_MAX = 2 * BATCH_BYTES_MAX
TOPIC_DEFAULT = "default"
_FORM = "application/x-www-form-urlencoded"  # what `curl -d` says of anything

M = TypeVar("M", bound=BaseModel)


async def read_message(request: Request[None]) -> NewMessage:
    """Return the message that a request publishes; refuse (400, 413, 415) what is none.

    With `?topic=` the body is the payload, and so it is if it does not begin as a JSON object does or is said to be of
    another type.
    """
    _refuse_encoded(request.headers)
    plain = "topic" in request.query or not says_json(request.headers)
    begun = plain  # whether something has come that is no blank before an object
    parts, size = list[bytes](), 0
    async for part in request.stream():
        parts.append(part)
        size += len(part)
        if not begun and (rest := part.lstrip()):
            begun, plain = True, rest[0] != 0x7B
        if (plain or not begun) and size > PAYLOAD_BYTES_MAX:
            raise payload_too_large()
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not (body and begun) and "topic" not in request.query:
        fix = "Send a JSON object with topic and payload, or the payload itself, with `?topic=` if it is empty."
        raise Refusal(INVALID_BODY.problem("the body is empty", fix=fix))
    return _as_payload(request, body) if plain or not body else _parse(PublishRequest, body).message()


async def read_messages(request: Request[None]) -> Sequence[NewMessage]:
    """Return the messages that a request publishes together; refuse (400, 413, 415) what is none."""
    _refuse_encoded(request.headers)
    body = b"".join([part async for part in request.stream()])
    asked = _parse(PublishBatchRequest, body).messages
    messages = [one.message(f"messages.{at}.") for at, one in enumerate(asked)]
    if sum(len(message.payload) for message in messages) > BATCH_BYTES_MAX:
        why = f"the payloads of a batch have at most {BATCH_BYTES_MAX} bytes together"
        raise Refusal(BODY_TOO_LARGE.problem(why, fix="Publish fewer messages together."))
    return messages


def _as_payload(request: Request[None], body: bytes) -> NewMessage:
    try:
        return NewMessage(
            topic=request.query.get("topic", TOPIC_DEFAULT),
            payload=body,
            content_type=_content_type(request.headers),
            producer=request.query.get("producer"),
            dedupe_key=request.query.get("dedupe_key"),
            retain=flag(request, "retain", False),
        )
    except ValidationError as error:
        raise Refusal(invalid_body(error)) from None


def _content_type(headers: Headers) -> str:
    given = headers.get("content-type", "").strip()
    return TEXT_TYPE if given.partition(";")[0].strip().lower() == _FORM else given or BYTES_TYPE


def _parse(model: type[M], body: bytes) -> M:
    """Read JSON; NaN and its like are refused, since nobody could read them again."""
    try:
        given: Any = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise Refusal(INVALID_BODY.problem(f"the body is not JSON: {error}")) from None
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise Refusal(invalid_body(error)) from None


def _refuse_encoded(headers: Headers) -> None:
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refusal(UNSUPPORTED_MEDIA_TYPE.problem(f"the body is encoded as {coding[:100]!r}"))
