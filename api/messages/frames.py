"""Messages as subscribers get them: JSON, within an event of a stream or by itself."""

from base64 import b64encode
from typing import Any

from pydantic_core import from_json, to_json

from api.sse import frame
from projectors.document.messages.message import Message
from projectors.document.messages.subscription import Lagged
from projectors.document.rows import stored

_JSON_KINDS = ("application/json", "text/json")
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")


def message_frame(message: Message) -> bytes:
    """Return the event of one message; its id is where a subscriber who comes back goes on."""
    return frame("message", message_json(message), str(message.id))


def message_json(message: Message) -> bytes:
    """Return one message, without line breaks."""
    return b'{"id":%d,"db_id":%b,"topic":%b,"content_type":%b,%b,"producer":%b,"created_at":%b}' % (
        message.id,
        to_json(message.db_id),
        to_json(message.topic),
        to_json(message.content_type),
        _payload(message),
        to_json(message.producer),
        to_json(message.created_at),
    )


def lagged_frame(lagged: Lagged) -> bytes:
    """Return the event that tells a subscriber that it has lagged; its id is where it stands."""
    return frame("lagged", lagged_json(lagged), str(lagged.next - 1))


def lagged_json(lagged: Lagged) -> bytes:
    """Return what it says."""
    return to_json({"after": lagged.after, "next": lagged.next, "reason": lagged.reason})


def _payload(message: Message) -> bytes:
    """Return the payload in one form: as the JSON that it is, else as text if its type is textual, else as base64."""
    kind = message.content_type.partition(";")[0].strip().lower()
    if (kind in _JSON_KINDS or kind.endswith("+json")) and _is_json(message.payload):
        # As it was published. Between the parts of JSON line breaks are blanks, and elsewhere there are none.
        return b'"payload":%b' % message.payload.translate(_LINE_BREAKS).strip()
    text: Any = stored(message.payload, message.content_type)
    if isinstance(text, str):
        return b'"payload_text":%b' % to_json(text)
    return b'"payload_base64":"%b"' % b64encode(message.payload)


def _is_json(payload: bytes) -> bool:
    try:
        from_json(payload, allow_inf_nan=False)
    except ValueError:
        return False
    return True
