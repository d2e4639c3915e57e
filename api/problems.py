"""The answers that problems become."""

from typing import Any

from pydantic import ValidationError
from pydantic_core import to_json

from schemas.problems import BODY_TOO_LARGE, INVALID_BODY, PROBLEM_CONTENT_TYPE, Problem

REASONS_MAX = 3
PLAIN_CONTENT_TYPE = "text/plain; charset=utf-8"


class ClientGone(Exception):
    """The client went away, or broke its own request, before the request was complete."""


def encode_problem(problem: Problem, request_id: str | None) -> tuple[bytes, dict[str, str]]:
    """Return the JSON body and the headers (content type, Retry-After) of a problem's answer."""
    headers = {"content-type": PROBLEM_CONTENT_TYPE}
    if problem.retry_after_s is not None:
        headers["retry-after"] = str(problem.retry_after_s)
    return to_json(problem.model_copy(update={"request_id": request_id}).body()), headers


def encode_plain(problem: Problem) -> tuple[bytes, dict[str, str]]:
    """Return the answer of a problem as one line of text, for those who read no JSON, and its headers."""
    _, headers = encode_problem(problem, None)
    line = " ".join(f"{problem.title}: {problem.detail}".split())
    return f"{line}\n".encode("utf-8", "replace"), headers | {"content-type": PLAIN_CONTENT_TYPE}


def invalid_body(error: ValidationError) -> Problem:
    """Return the problem for a body that its model refused, naming the first wrong fields."""
    errors = error.errors(include_url=False, include_input=False, include_context=False)
    reasons = "; ".join(_reason(details) for details in errors[:REASONS_MAX])
    if len(errors) > REASONS_MAX:
        reasons += f"; and {len(errors) - REASONS_MAX} more"
    return INVALID_BODY.problem(reasons, field=_field(errors[0]["loc"]) or None)


def body_too_large(bytes_max: int) -> Problem:
    """Return the problem of a body past its bound."""
    return BODY_TOO_LARGE.problem(f"the body is larger than {bytes_max} bytes")


def _reason(details: Any) -> str:
    field = _field(details["loc"])
    message = str(details["msg"]).removeprefix("Value error, ")  # pydantic says so before what our validators say
    return f"{field}: {message}" if field else message


def _field(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)
