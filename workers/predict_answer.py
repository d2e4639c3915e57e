"""What a worker's answer means: a vector of finite float32 numbers, or why it is none."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import numpy as np
from pydantic_core import from_json

DIMENSION_MAX = 65536
MODEL_LENGTH_MAX = 200
REASON_BYTES_MAX = 1000
RETRY_AFTER_MAX_S = 3600.0
DEFAULT_MODEL = "default"
_VECTOR_KEYS = ("embedding", "vector", "data")


@dataclass(frozen=True, slots=True)
class Prediction:
    """One embedding: `dimension` little-endian float32 numbers, and the model that made them."""

    vector: bytes
    dimension: int
    model: str


class InvalidAnswer(ValueError):
    """The answer is no vector; the message says why."""


def parse_answer(body: bytes) -> Prediction:
    """Read a JSON array of numbers, or an object with one as `embedding`, `vector` or `data`.

    In an object the first of the three that holds a vector counts, and `model` may name the model.
    Raises `InvalidAnswer`.
    """
    try:
        answer = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidAnswer(f"the answer is not valid JSON: {error}") from error
    if isinstance(answer, list):
        return _prediction(answer, DEFAULT_MODEL)
    if not isinstance(answer, dict):
        raise InvalidAnswer("the answer is neither a JSON array nor an object")
    present = [key for key in _VECTOR_KEYS if key in answer]
    if not present:
        raise InvalidAnswer("the answer has none of the keys embedding, vector, data")
    model = _model(answer.get("model"))
    refusals: list[str] = []
    for key in present:
        try:
            return _prediction(answer[key], model)
        except InvalidAnswer as error:
            refusals.append(f"{key}: {error}")
    raise InvalidAnswer("; ".join(refusals))


def cut_reason(text: str) -> str:
    """Return `text` as a reason to store: at most 1000 bytes of UTF-8, control characters replaced."""
    # A worker's text reaches terminals and logs, so it brings no escape sequences along.
    plain = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text[:REASON_BYTES_MAX])
    return plain.encode()[:REASON_BYTES_MAX].decode(errors="ignore")


def parse_retry_after(header: str, now: datetime) -> float | None:
    """Return the seconds that a `Retry-After` header asks for, at most an hour; None if it says nothing."""
    header = header.strip()
    if header.isascii() and header.isdigit():
        return min(float(header), RETRY_AFTER_MAX_S)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max((moment - now).total_seconds(), 0.0), RETRY_AFTER_MAX_S)


def _prediction(values: object, model: str) -> Prediction:
    if not isinstance(values, list) or not values:
        raise InvalidAnswer("a vector is a non-empty JSON array")
    if len(values) > DIMENSION_MAX:
        raise InvalidAnswer(f"a vector has at most {DIMENSION_MAX} numbers, not {len(values)}")
    if not set(map(type, values)) <= {int, float}:  # exact types: true and false are no numbers
        raise InvalidAnswer("a vector holds only numbers")
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError as error:
        raise InvalidAnswer("a number is too large for float32") from error
    with np.errstate(over="ignore"):
        vector = numbers.astype("<f4")
    if not np.isfinite(vector).all():
        raise InvalidAnswer("a number is too large for float32")
    return Prediction(vector.tobytes(), len(values), model)


def _model(value: object) -> str:
    if value is None:
        return DEFAULT_MODEL
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidAnswer("model must be a printable string")
    if len(value) > MODEL_LENGTH_MAX:
        raise InvalidAnswer(f"model may have at most {MODEL_LENGTH_MAX} characters, not {len(value)}")
    return value
