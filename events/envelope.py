"""One event: a CloudEvents 1.0 object around a fact."""

from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from typing_extensions import TypedDict  # pydantic refuses that of typing before Python 3.12

from events.errors import MalformedRecord, UnknownEvent
from schemas.facts import Fact, Instant


class Receipt(NamedTuple):
    """What is remembered of a command, so that its retry gets the same answer."""

    command_id: str
    fingerprint: str  # of the command: the same id with another command is a mistake of the caller
    answer: Any  # JSON value


class Event(NamedTuple):
    """One fact with its context. `time` comes from the writer and is the only clock a fold may use."""

    id: str
    source: str
    time: str
    principal: str
    fact: Fact
    receipt: Receipt | None = None


def encode_event(event: Event) -> bytes:
    """Return the CloudEvents JSON of `event`."""
    envelope = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.fact.TYPE,
        "subject": event.fact.subject,
        "time": event.time,
        "principal": event.principal,
        "data": event.fact,
    }
    if event.receipt:
        # CloudEvents attributes are scalars, so the answer travels as JSON text.
        envelope["commandid"] = event.receipt.command_id
        envelope["commandhash"] = event.receipt.fingerprint
        envelope["commandanswer"] = to_json(event.receipt.answer).decode()
    return to_json(envelope)


def decode_events(raw: bytes, facts: Mapping[str, type[Fact]]) -> list[Event]:
    """Read the JSON of a record's events; raise `UnknownEvent` or `MalformedRecord`, never pass over one."""
    try:
        batch = _adapter(tuple(facts.values())).validate_json(raw)
    except ValidationError as error:
        raise _unreadable(raw, error) from error
    return [
        Event(e["id"], e["source"], e["time"], e["principal"], e["data"], _receipt(e) if "commandid" in e else None)
        for e in batch
    ]


@cache
def _adapter(facts: tuple[type[Fact], ...]) -> TypeAdapter[list[dict[str, Any]]]:
    """Return what parses and checks a whole record in one call: a third of the time of doing it event by event."""
    shapes = [_shape(fact) for fact in facts]
    union: Any = reduce(or_, shapes)
    if len(shapes) > 1:  # else there is nothing to tell apart
        union = Annotated[union, Field(discriminator="type")]
    adapter: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[union])
    return adapter


def _shape(fact: type[Fact]) -> Any:
    """Return the envelope of one fact, as a type; unknown attributes are ignored."""
    optional = dict.fromkeys(("commandid", "commandhash", "commandanswer"), NotRequired[str])
    type_: Any = Literal[fact.TYPE]
    known = {"id": str, "source": str, "type": type_, "time": Instant, "principal": str, "data": fact}
    return TypedDict("Envelope", known | optional)  # type: ignore[operator]  # mypy takes it for a special form


def _receipt(envelope: Mapping[str, Any]) -> Receipt:
    try:
        return Receipt(envelope["commandid"], envelope["commandhash"], from_json(envelope["commandanswer"]))
    except (KeyError, ValueError) as error:
        raise MalformedRecord(f"event {envelope['id']!r} is not readable: its receipt: {error!r}") from error


def _unreadable(raw: bytes, error: ValidationError) -> MalformedRecord | UnknownEvent:
    """Say which event of `raw` is not readable, and whether a newer Forge could read it."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"][2:])
    try:
        event = from_json(raw)[first["loc"][0]]
        event_id, event_type = event.get("id"), event.get("type")
    except (ValueError, LookupError, TypeError, AttributeError):
        return MalformedRecord(f"not a list of events: {first['msg']}")
    unknown = first["type"] == "union_tag_invalid" or (
        first["type"] == "literal_error" and first["loc"][1:] == ("type",)
    )
    if unknown and isinstance(event_type, str):
        return UnknownEvent(
            f"event {event_id} has the type {event_type!r}, which this version of Forge does not know: a newer "
            "one wrote it, so run at least that version"
        )
    return MalformedRecord(f"event {event_id!r} is not readable: {where or 'event'}: {first['msg']}")
