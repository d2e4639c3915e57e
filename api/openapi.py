"""The OpenAPI 3.1 document, generated from the route table."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.inputs import IF_MATCH, KEY, Input
from api.routes import ANY_METHOD, DB_PARAMETER, TOKEN_PARAMETER, Reply, Request, Route
from schemas.problems import PROBLEM_CONTENT_TYPE, Problem

OPENAPI_PATH = "/api/v1/openapi.json"
OPENAPI_SCOPE = "system.read"
JSON, BYTES = "application/json", "application/octet-stream"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "url_token": {
        "type": "apiKey",
        "in": "query",
        "name": TOKEN_PARAMETER,
        "description": "A token that was minted for URLs; nothing else is taken there.",
    },
}
_REF = "#/components/schemas/{model}"


def openapi_route(routes: Sequence[Route]) -> Route:
    """Return the route that serves the document about `routes` and itself."""

    async def serve(request: Request[None]) -> Reply:
        return Reply(200, document)

    own = Route(
        "GET",
        OPENAPI_PATH,
        OPENAPI_SCOPE,
        serve,
        replies={200: "the OpenAPI 3.1 document"},
        media={200: (JSON,)},
        summary="This document",
    )
    document = openapi_document([*routes, own])
    return own


def openapi_document(routes: Sequence[Route], *, title: str = "Forge", version: str = "1") -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of a route table as JSON-like data."""
    models = {Problem} | {r.body for r in routes if r.body}
    models |= {m for r in routes for m in r.replies.values() if isinstance(m, type)}
    ordered = sorted(models, key=lambda model: (model.__name__, model.__module__))
    references, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=_REF)
    schemas = {model: references[(model, "validation")] for model in ordered}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        item = paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})
        method = "get" if route.method == ANY_METHOD else route.method.lower()
        item[method] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": definitions.get("$defs", {}),
            "responses": _refusals(schemas[Problem]),
            "securitySchemes": _SCHEMES,
        },
        "security": [{"bearer": []}],
    }


def _operation(route: Route, schemas: dict[type[BaseModel], Any]) -> dict[str, Any]:
    refusals = "PlainRefusal" if route.plain_errors else ""
    responses = {status: {"$ref": f"#/components/responses/{status}{refusals}"} for status in _refused_with(route)}
    responses |= {str(status): _response(route, status, schemas) for status in route.replies}
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "x-forge-scope": route.scope if isinstance(route.scope, str) else list(route.scope),
        "responses": responses | {"default": {"$ref": f"#/components/responses/default{refusals}"}},
    }
    if parameters := [*map(_path_parameter, _PARAMETER.findall(route.path)), *map(_parameter, route.inputs)]:
        operation["parameters"] = parameters
    if route.body is not None:
        content = {JSON: {"schema": schemas[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.streaming:
        operation["requestBody"] = {"required": True, "content": {BYTES: {}}}
    if route.public:
        operation["security"] = []
    elif route.url_token or route.anonymous:
        operation["security"] = [{"bearer": []}, *_other_ways_in(route)]
    return operation


def _other_ways_in(route: Route) -> list[dict[str, Any]]:
    in_url: list[dict[str, Any]] = [{"url_token": []}] if route.url_token else []
    return in_url + ([{}] if route.anonymous else [])


def _path_parameter(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string", "minLength": 1}
    if name == DB_PARAMETER:
        schema |= {"pattern": r"^[A-Za-z0-9._-]+$", "maxLength": 128}
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _parameter(one: Input) -> dict[str, Any]:
    shown = {"name": one.name, "in": one.where, "description": one.description, "schema": dict(one.schema)}
    return shown | ({"required": True} if one.required else {})


def _response(route: Route, status: int, schemas: dict[type[BaseModel], Any]) -> dict[str, Any]:
    reply = route.replies[status]
    content: dict[str, Any] = {media: {} for media in route.media.get(status, ())}
    if isinstance(reply, str):
        if status >= 400 and not content:
            content = {"text/plain": {}} if route.plain_errors else {PROBLEM_CONTENT_TYPE: {"schema": schemas[Problem]}}
        return {"description": reply, **({"content": content} if content else {})}
    own = PROBLEM_CONTENT_TYPE if reply is Problem else JSON
    return {"description": HTTPStatus(status).phrase, "content": {own: {"schema": schemas[reply]}} | content}


def _refused_with(route: Route) -> list[str]:
    """Return the refusals that a caller of any such route must expect."""
    if route.public:
        return []
    takes_body = ["413"] if route.streaming else ["413", "415"] if route.body is not None else []
    document = ["404", "410"] if route.of_one_document else []
    repeated = ["422"] if KEY in route.inputs else []
    expected = ["412"] if IF_MATCH in route.inputs else []
    return ["400", "401", "403", *document, *expected, *takes_body, *repeated, "429", "503"]


def _refusals(problem: Any) -> dict[str, Any]:
    """Return the refusals that routes have in common, by status."""
    content = {"content": {PROBLEM_CONTENT_TYPE: {"schema": problem}}}
    later = {"Retry-After": {"description": "seconds to wait", "required": True, "schema": {"type": "integer"}}}
    challenge = {"WWW-Authenticate": {"description": "how", "required": True, "schema": {"type": "string"}}}
    refusals = {
        "400": {"description": "The request is wrong; `field` names the part of it", **content},
        "401": {"description": "It is not known who asks", "headers": challenge, **content},
        "403": {"description": "The token has no scope for this", **content},
        "404": {"description": "There is none", **content},
        "410": {"description": "It is no longer there", **content},
        "412": {"description": "The document has moved on from the position of If-Match", **content},
        "413": {"description": "Larger than the bound", **content},
        "415": {"description": "The body is of another media type", **content},
        "422": {"description": "It makes no sense here, such as a used Idempotency-Key on another request", **content},
        "429": {"description": "Too many requests", "headers": later, **content},
        "503": {"description": "Not at this moment", "headers": later, **content},
        "default": {"description": "Refused; the body says why and what to do", **content},
    }
    plain = {f"{status}PlainRefusal": refusal | {"content": {"text/plain": {}}} for status, refusal in refusals.items()}
    return refusals | plain


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", f"{route.method} {route.path}")
    return "_".join(words).lower()
