"""`forge pub`, `forge sub` and `forge db retention`: the messages of a document."""

import json
import sys
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from forge.cli.db_name import DOCUMENT
from forge.cli.fence_option import fence_option
from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, emit_line

if TYPE_CHECKING:
    from forge.client import ForgeClient, Lag, Message, Published, Retention
    from schemas.fences import Fence

_COUNT = click.IntRange(min=1)


@click.command()
@click.argument("name", type=DOCUMENT)
@click.argument("topic")
@click.argument("text", required=False)
@click.option("--value", metavar="JSON", help="A JSON value as the payload.")
@click.option("--file", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="The bytes of a file.")
@click.option("--content-type", metavar="TYPE", help="What the payload is.")
@click.option("--key", metavar="KEY", help="Publish it once: not while a message of the topic with this key is kept.")
@click.option("--producer", metavar="NAME", help="Who publishes it.")
@click.option("--retain", is_flag=True, help="Keep it as the last value of its topic.")
@fence_option
@node_options
@json_option
def pub(
    name: str,
    topic: str,
    text: str | None,
    value: str | None,
    file: str | None,
    content_type: str | None,
    key: str | None,
    producer: str | None,
    retain: bool,
    fences: tuple["Fence", ...],
) -> None:
    """Publish TEXT (- for standard input) to TOPIC in the document NAME; it is durable when this ends."""
    if sum(one is not None for one in (text, value, file)) != 1:
        raise click.UsageError("give one of TEXT, --value and --file")
    more: dict[str, Any] = {"content_type": content_type, "key": key, "producer": producer, "retain": retain}
    payload = _payload(text, value, file)

    async def run(client: "ForgeClient") -> "Published":
        return await client.db(name).publish(topic, fences=fences, **payload, **more)

    published = ask_node(run)
    known = " (it had been before)" if published.duplicate else ""
    position = str(published.position) if published.position else None
    line = {"id": published.id, "topic": published.topic, "content_type": published.content_type}
    line |= {"size_bytes": published.size_bytes, "created_at": published.created_at, "duplicate": published.duplicate}
    emit(line | {"position": position}, f"published as message {published.id}{known}", as_json=invocation().json)


def _payload(text: str | None, value: str | None, file: str | None) -> dict[str, Any]:
    if file is not None:
        return {"payload": Path(file).read_bytes()}
    if text == "-":
        return _text_or_bytes(sys.stdin.buffer.read())
    if text is not None:
        return {"text": text}
    try:
        given = json.loads(value or "")
        json.dumps(given, allow_nan=False, ensure_ascii=False).encode()  # what Python reads is more than JSON
        return {"payload": given}
    except ValueError as error:
        raise click.UsageError(f"--value is not JSON: {error}") from error


def _text_or_bytes(raw: bytes) -> dict[str, Any]:
    try:
        return {"text": raw.decode()}
    except UnicodeDecodeError:
        return {"payload": raw}


@click.command()
@click.argument("name", type=DOCUMENT)
@click.argument("filters", nargs=-1, metavar="[FILTER]...")
@click.option("--since", type=click.IntRange(min=0), metavar="ID", help="Begin after this message; 0 for all.")
@click.option("--tail", type=_COUNT, metavar="N", help="Begin with the N newest that match.")
@click.option("--retained", is_flag=True, help="The last values first.")
@click.option("--count", type=_COUNT, metavar="N", help="Stop after N messages.")
@node_options
@json_option
def sub(
    name: str, filters: tuple[str, ...], since: int | None, tail: int | None, retained: bool, count: int | None
) -> None:
    """Print the messages of the document NAME whose topic a FILTER picks, with + and # as in MQTT, until stopped.

    Without FILTER all of them; without --since and --tail those that come. A node that stops or cannot be reached is
    waited for, and nothing is missed or printed twice.
    """
    if since is not None and tail is not None:
        raise click.UsageError("--since and --tail exclude each other")
    "".join(filters).encode()  # what is no text fails here, not as if the node had sent it

    async def run(client: "ForgeClient") -> None:
        seen = 0
        following = client.db(name).subscribe(*filters, since=since, tail=tail, retained=retained, lagged=_tell)
        async with aclosing(following) as messages:
            async for message in messages:
                _print(message)
                seen += 1
                if seen == count:
                    return

    ask_node(run)


def _print(message: "Message") -> None:
    payload = message.payload
    if isinstance(payload, bytes):
        line, shown = {"payload_base64": _base64(payload)}, f"({len(payload)} bytes of {message.content_type})"
    elif "json" in message.content_type:
        line, shown = {"payload": payload}, json.dumps(payload, ensure_ascii=False)
    else:
        line, shown = {"payload_text": payload}, str(payload)
    about = {"id": message.id, "topic": message.topic, "content_type": message.content_type}
    more = {"producer": message.producer, "created_at": message.created_at}
    text = f"{message.id} {message.topic} {shown}"
    emit_line(about | line | more, "".join(c if c.isprintable() else " " for c in text), as_json=invocation().json)


def _base64(payload: bytes) -> str:
    import base64

    return base64.b64encode(payload).decode()


def _tell(lag: "Lag") -> None:
    if lag.reason != "slow":
        click.echo(f"messages between {lag.after} and {lag.next} are gone: {lag.reason}", err=True)


@click.command()
@click.argument("name", type=DOCUMENT)
@click.option("--age", type=_COUNT, metavar="S", help="Remove messages older than S seconds.")
@click.option("--count", type=_COUNT, metavar="N", help="Keep the N newest.")
@click.option("--bytes", "size", type=_COUNT, metavar="N", help="Keep so many bytes of payloads.")
@click.option("--none", "nothing", is_flag=True, help="Keep everything again.")
@node_options
@json_option
def retention(name: str, age: int | None, count: int | None, size: int | None, nothing: bool) -> None:
    """Print which messages the document NAME keeps, or say so: all of the bounds that are given, and no other."""
    bounds = {"max_age_s": age, "max_count": count, "max_bytes": size}
    given = {name: value for name, value in bounds.items() if value is not None}
    if given and nothing:
        raise click.UsageError("--none excludes the others")

    async def run(client: "ForgeClient") -> "Retention":
        document = client.db(name)
        return await (document.set_retention(**given) if given or nothing else document.retention())

    kept = ask_node(run)
    said = {"max_age_s": "s", "max_count": "messages", "max_bytes": "bytes"}
    lines = [f"{getattr(kept, bound)} {unit}" for bound, unit in said.items() if getattr(kept, bound) is not None]
    emit(kept, f"keeps at most {', '.join(lines)}" if lines else "keeps all messages", as_json=invocation().json)
