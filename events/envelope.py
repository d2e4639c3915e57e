"""One event: a CloudEvents 1.0 object around a fact."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json, to_json

from events.errors import MalformedRecord, UnknownEvent
from schemas.facts import Fact

_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)  # other forms do not sort by time


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
    # Text that holds nothing to escape is put in as it is: half the time of a dictionary of everything.
    head = f'{{"specversion":"1.0","id":"{event.id}","source":"{event.source}","type":"{event.fact.TYPE}",'
    attributes = {"subject": event.fact.subject, "time": event.time, "principal": event.principal}
    if event.receipt:
        # CloudEvents attributes are scalars, so the answer travels as JSON text.
        attributes["commandid"] = event.receipt.command_id
        attributes["commandhash"] = event.receipt.fingerprint
        attributes["commandanswer"] = to_json(event.receipt.answer).decode()
    return head.encode() + to_json({**attributes, "data": event.fact})[1:]


def decode_event(envelope: Mapping[str, Any], facts: Mapping[str, type[Fact]]) -> Event:
    """Read one event of a domain; raise `UnknownEvent` or `MalformedRecord`, never pass over it."""
    try:
        kind = facts[envelope["type"]]
        fact = kind.model_validate(envelope["data"])
        receipt = None
        if "commandid" in envelope:
            _check_texts(envelope["commandid"], envelope["commandhash"])
            receipt = Receipt(envelope["commandid"], envelope["commandhash"], from_json(envelope["commandanswer"]))
        context = envelope["id"], envelope["source"], envelope["time"], envelope["principal"]
        _check_texts(*context)
        if not _INSTANT.fullmatch(context[2]):
            raise ValueError(f"{context[2]!r} is no moment in UTC with six fractional digits")
        return Event(*context, fact, receipt)
    except (KeyError, TypeError, ValueError, ValidationError) as error:
        if isinstance(error, KeyError) and error.args == (envelope.get("type"),):
            raise UnknownEvent(
                f"event {envelope.get('id')} has the type {envelope.get('type')!r}, which this version of "
                "Forge does not know: a newer one wrote it, so run at least that version"
            ) from None
        raise MalformedRecord(f"event {envelope.get('id')!r} is not readable: {error}") from error


def _check_texts(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{value!r} is no text")
