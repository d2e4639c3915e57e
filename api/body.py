"""The body of a request: read within its bound, and validated where a route declares a model."""

from collections.abc import MutableMapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.types import Receive

from api.headers import Headers
from api.problems import ClientGone, body_too_large, invalid_body
from schemas.problems import INVALID_BODY, UNSUPPORTED_MEDIA_TYPE, Refusal

M = TypeVar("M", bound=BaseModel)
# `curl -d` says it sends a form, and many clients say nothing better than octet-stream: both mean JSON here
_JSON_TYPES = frozenset(
    {
        "",
        "application/json",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "text/plain",
        "text/json",
    }
)


def part(message: MutableMapping[str, Any], before_bytes: int, bytes_max: int) -> bytes:
    """Return what an ASGI message brings of a body of which `before_bytes` have come.

    Raise `ClientGone` if the body breaks off, `Refusal` (413) if it goes beyond `bytes_max`.
    """
    if message["type"] == "http.disconnect":
        raise ClientGone
    data: bytes = message.get("body", b"")
    if before_bytes + len(data) > bytes_max:
        raise Refusal(body_too_large(bytes_max))
    return data


async def read_body(model: type[M], headers: Headers, receive: Receive, bytes_max: int) -> M:
    """Return a JSON body as its model; raise `Refusal` (400, 413, 415) or `ClientGone`."""
    _refuse_other_types(headers)
    message = await receive()
    raw = part(message, 0, bytes_max)
    if message.get("more_body", False):
        parts, total_bytes = [raw], len(raw)
        while message.get("more_body", False):
            message = await receive()
            parts.append(part(message, total_bytes, bytes_max))
            total_bytes += len(parts[-1])
        raw = b"".join(parts)
    if not raw or raw.isspace():
        raise Refusal(INVALID_BODY.problem("the body is empty, a JSON object is needed"))
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise Refusal(invalid_body(error)) from None


def says_json(headers: Headers) -> bool:
    """Say whether a body may be JSON by what its sender says."""
    given = headers.get("content-type", "")
    if given in _JSON_TYPES:
        return True
    content_type = given.partition(";")[0].strip().lower()
    return content_type in _JSON_TYPES or content_type.endswith("+json")


def _refuse_other_types(headers: Headers) -> None:
    if not says_json(headers):
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        raise Refusal(UNSUPPORTED_MEDIA_TYPE.problem(f"the body is said to be {content_type[:100]!r}"))
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise Refusal(UNSUPPORTED_MEDIA_TYPE.problem(f"the body is encoded as {coding[:100]!r}"))
