"""The AsyncAPI 3.0 document: the command door, hints of news, and the feeds of changes and messages."""

from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.routes import Reply, Request, Route
from schemas.changes import Change, Heartbeat
from schemas.door import CommandReply
from schemas.problems import Problem
from schemas.publishing import LaggedView, MessageView

ASYNCAPI_PATH = "/api/v1/asyncapi.json"
ASYNCAPI_SCOPE = "system.read"
CHANGES_PATH = "/api/v1/db/{db_id}/changes"
MESSAGES_PATH = "/api/v1/db/{db_id}/events/stream"
LIVE_SUBJECT = "forge.live.doc.{db_id}"
_EVENTS: dict[str, tuple[type[BaseModel], str]] = {
    "change": (Change, "A command changed the document. The id of the last one of a commit is its position."),
    "heartbeat": (Heartbeat, "Time has passed, or commits that were not asked for. The id is the position."),
    "error": (Problem, "The stream ends here; the problem says why."),
}
_TOLD: dict[str, tuple[type[BaseModel], str]] = {
    "message": (
        MessageView,
        "A message, whose id is that of the event; with one form of the payload, as docs/messages.md says.",
    ),
    "lagged": (
        LaggedView,
        "The subscriber was not there in time; what is between the two ids is to come from disk, or gone.",
    ),
    "error": (Problem, "The stream ends here; the problem says why."),
}
_DB_ID = {"db_id": {"description": "name of the document; on NATS in its escaped form"}}


def asyncapi_route(door: NatsBroker) -> Route:
    """Return the route that serves the document about `door` and the change feed."""
    document = asyncapi_document(door)

    async def serve(request: Request[None]) -> Reply:
        return Reply(200, document)

    return Route(
        "GET",
        ASYNCAPI_PATH,
        ASYNCAPI_SCOPE,
        serve,
        replies={200: "the AsyncAPI 3.0 document"},
        media={200: ("application/json",)},
        summary="What is sent by events: the change feed and NATS subjects",
    )


def asyncapi_document(door: NatsBroker, *, title: str = "Forge", version: str = "1") -> dict[str, Any]:
    """Return the AsyncAPI document as JSON-like data: what FastStream knows of `door`, and the feeds beside it."""
    document: dict[str, Any] = AsyncAPI(door, title=title, version=version).to_specification().to_jsonable()
    nats = next(iter(document["servers"]))
    document["servers"]["http"] = {
        "host": "{host}",
        "pathname": "/",
        "protocol": "http",
        "description": "A node of Forge. Send `Authorization: Bearer <token>`.",
        "variables": {"host": {"description": "where the node listens", "default": "127.0.0.1:8080"}},
    }
    changes = _stream(CHANGES_PATH, "GET with `Accept: text/event-stream`", list(_EVENTS))
    messages = _stream(MESSAGES_PATH, "GET with `topic`, `since_id` or `tail`", list(_TOLD))
    document["channels"] |= {"changes": changes, "messages": messages, "live": _live(nats)}
    document["operations"] |= {
        "changes": _operation("send", "changes", list(_EVENTS)),
        "messages": _operation("send", "messages", list(_TOLD)),
        "live": _operation("send", "live", ["position"]),
    }
    commands = document["operations"]["commands"]
    document["channels"]["commands"]["messages"]["reply"] = {"$ref": "#/components/messages/reply"}
    commands["reply"] = {
        "channel": {"$ref": "#/channels/commands"},
        "messages": [{"$ref": "#/channels/commands/messages/reply"}],
    }
    components = document["components"]
    components["messages"] |= {name: _message(name, model, why) for name, (model, why) in (_EVENTS | _TOLD).items()}
    components["messages"]["reply"] = _message("reply", CommandReply, "Position and answer, or a problem.")
    components["messages"]["position"] = {
        "name": "position",
        "summary": "The document has reached this position, `epoch.index`. A lost one is no harm.",
        "contentType": "text/plain",
        "payload": {"type": "string"},
    }
    components["schemas"] |= _schemas()
    return document


def _stream(address: str, how: str, messages: list[str]) -> dict[str, Any]:
    return {
        "address": address,
        "description": f"Server-sent events: {how}, resumed by `Last-Event-ID`.",
        "servers": [{"$ref": "#/servers/http"}],
        "parameters": _DB_ID,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }


def _live(server: str) -> dict[str, Any]:
    return {
        "address": LIVE_SUBJECT,
        "description": "Hints on core NATS that a document has news.",
        "servers": [{"$ref": f"#/servers/{server}"}],
        "parameters": _DB_ID,
        "messages": {"position": {"$ref": "#/components/messages/position"}},
    }


def _operation(action: str, channel: str, messages: list[str]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _message(name: str, model: type[BaseModel], summary: str) -> dict[str, Any]:
    payload = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"name": name, "summary": summary, "contentType": "application/json", "payload": payload}


def _schemas() -> dict[str, Any]:
    models: list[type[BaseModel]] = [*(model for model, _ in (_EVENTS | _TOLD).values()), CommandReply]
    _, definitions = models_json_schema(
        [(model, "serialization") for model in models], ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Any] = definitions["$defs"]
    return schemas
