"""SQL values in JSON: what JSON cannot say is an object with one key that begins with `$`.

`{"$int": "9007199254740993"}` is an integer beyond 2^53, which many JSON readers would round; `{"$blob": "AAE="}` is
binary in base64; `{"$real": "inf"}` is an infinity. Everything else stands for itself.
"""

import base64
import binascii
import math
from typing import Any

SqlValue = None | int | float | str | bytes
EXACT_INTEGER_MAX = 2**53 - 1
_INT64 = range(-(2**63), 2**63)
_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


class InvalidValue(ValueError):
    """A JSON value stands for no SQL value; the message says why."""


def encode(value: SqlValue) -> Any:
    """Return `value` as JSON has it."""
    match value:
        case bytes():
            return {"$blob": base64.b64encode(value).decode()}
        case int() if abs(value) > EXACT_INTEGER_MAX:
            return {"$int": str(value)}
        case float() if math.isinf(value):
            return {"$real": "inf" if value > 0 else "-inf"}
    return value


def decode(value: Any) -> SqlValue:
    """Return the SQL value that a JSON value stands for; raise `InvalidValue`."""
    match value:
        case None | str():
            return value
        case float():
            if math.isnan(value):
                raise InvalidValue("NaN is no SQL value: send null")
            return value
        case int():  # true and false are 1 and 0, as in SQLite
            return _integer(int(value))
        case {"$int": str(text)} if len(value) == 1:
            try:
                return _integer(int(text))
            except ValueError as error:
                raise InvalidValue(f"$int takes a decimal integer as text, not {text[:40]!r}") from error
        case {"$blob": str(text)} if len(value) == 1:
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error as error:
                raise InvalidValue(f"$blob takes base64: {error}") from error
        case {"$real": str(text)} if len(value) == 1 and text in _INFINITIES:
            return _INFINITIES[text]
    raise InvalidValue("no SQL value: send null, a number, text, or an object with $int, $blob or $real alone")


def _integer(value: int) -> int:
    if value not in _INT64:
        raise InvalidValue("an integer has at most 64 bits in SQLite")
    return value
