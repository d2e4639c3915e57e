"""File names as facts hold them: bytes in memory, text in JSON and SQLite wherever they are UTF-8."""

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from schemas.values import InvalidValue, decode, encode

SEPARATOR, NUL = b"/", b"\0"


def sql_text(raw: bytes) -> str | bytes:
    """Return `raw` as a column holds it: text if it is UTF-8, else a blob."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def shown(raw: bytes) -> str:
    """Return `raw` for people and for JSON that only says something; what is not UTF-8 is escaped as `\\xff`."""
    return raw.decode("utf-8", "backslashreplace")


def _read(value: Any) -> Any:
    if isinstance(value, bytes):
        return value
    try:
        text = decode(value)
    except InvalidValue as error:
        raise ValueError(str(error)) from error
    return text.encode() if isinstance(text, str) else text


OsText = Annotated[
    bytes,
    BeforeValidator(_read),
    PlainSerializer(lambda raw: encode(sql_text(raw)), return_type=Any, when_used="json"),
]
"""What the operating system takes for text. In JSON it is text, or `{"$blob": "<base64>"}` where it is not UTF-8."""


def check_name(name: bytes) -> bytes:
    """Return the name of an entry of a folder; raise `ValueError` for what could name something outside of it."""
    if not name or name in (b".", b"..") or SEPARATOR in name or NUL in name:
        raise ValueError(f"not the name of an entry of a folder: {shown(name)[:80]!r}")
    return name
