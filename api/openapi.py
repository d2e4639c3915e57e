"""The OpenAPI 3.1 document, generated from the route table."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.routes import ANY_METHOD, Reply, Request, Route
from schemas.problems import PROBLEM_CONTENT_TYPE, Problem

OPENAPI_PATH = "/api/v1/openapi.json"
OPENAPI_SCOPE = "system.read"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
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
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"bearer": []}],
    }


def _operation(route: Route, schemas: dict[type[BaseModel], Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "x-forge-scope": route.scope if isinstance(route.scope, str) else list(route.scope),
        "responses": {str(status): _response(status, reply, schemas) for status, reply in route.replies.items()},
    }
    problem = {"content": {PROBLEM_CONTENT_TYPE: {"schema": schemas[Problem]}}}
    operation["responses"]["default"] = {"description": "Refused; the body says why and what to do", **problem}
    if names := _PARAMETER.findall(route.path):
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
    if route.body is not None:
        content = {"application/json": {"schema": schemas[route.body]}}
        operation["requestBody"] = {"required": True, "content": content}
    elif route.streaming:
        operation["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    if route.public:
        operation["security"] = []
    return operation


def _response(status: int, reply: type[BaseModel] | str, schemas: dict[type[BaseModel], Any]) -> dict[str, Any]:
    if isinstance(reply, str):
        return {"description": reply}
    content_type = PROBLEM_CONTENT_TYPE if reply is Problem else "application/json"
    return {
        "description": HTTPStatus(status).phrase,
        "content": {content_type: {"schema": schemas[reply]}},
    }


def _operation_id(route: Route) -> str:
    words = re.findall(r"\w+", f"{route.method} {route.path}")
    return "_".join(words).lower()
