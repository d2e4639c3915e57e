"""The AsyncAPI document is whole, and made from the types that are sent."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from faststream.nats import NatsBroker
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from api.asyncapi import ASYNCAPI_PATH, asyncapi_document, asyncapi_route
from schemas.changes import Change
from schemas.door import CommandReply, CommandRequest


def door() -> NatsBroker:
    broker = NatsBroker("nats://127.0.0.1:1")

    @broker.subscriber("forge.cmd.>", title="commands")
    async def take(request: CommandRequest) -> CommandReply:
        return CommandReply()

    return broker


@pytest.fixture
def document() -> dict[str, Any]:
    return asyncapi_document(door())


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for name in reference.removeprefix("#/").split("/"):
        found = found[name.replace("~1", "/").replace("~0", "~")]
    return found


def test_the_document_is_a_valid_one(document: dict[str, Any]) -> None:
    """Issue 3, deliverable 5: checked against the model of AsyncAPI 3.0, and no reference leads nowhere."""
    ApplicationSchema.model_validate(document)
    assert document["asyncapi"].startswith("3.0")
    found = set(references(document))
    assert len(found) > 10
    for reference in found:
        assert resolve(document, reference)
    json.dumps(document)


def test_it_describes_the_door_the_hints_and_the_feeds(document: dict[str, Any]) -> None:
    """DESIGN 10: the same content as the HTTP answer."""
    addresses = {channel["address"] for channel in document["channels"].values()}
    document_path = "/api/v1/db/{db_id}"
    streams = {f"{document_path}/changes", f"{document_path}/events/stream"}
    assert addresses == {"forge.cmd.>", "forge.live.doc.{db_id}"} | streams
    schema = document["components"]["schemas"]["Change"]
    assert schema["properties"].keys() == Change.model_fields.keys()
    assert {"change", "heartbeat", "error"} == document["channels"]["changes"]["messages"].keys()
    assert {"message", "lagged", "error"} == document["channels"]["messages"]["messages"].keys()


def test_it_is_served_to_whoever_may_read_the_system() -> None:
    route = asyncapi_route(door())
    assert (route.path, route.scope) == (ASYNCAPI_PATH, "system.read")
