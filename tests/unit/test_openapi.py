"""The OpenAPI document of all routes is valid, and says all that a handler reads."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis

from api.inputs import KEY
from api.openapi import openapi_document
from api.routes import ANY_METHOD, InvalidRoute, Reply, Request, Route
from tests.handler_reads import reads
from tests.route_table import every_route

ROUTES = every_route()
DOCUMENT = openapi_document(ROUTES)


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in DOCUMENT["paths"].items():
        for method, operation in item.items():
            yield f"{method} {path}", operation


def test_the_document_is_valid_openapi() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_a_route_declares_exactly_what_its_handler_reads(route: Route) -> None:
    """A parameter that is read but not declared could not be found by anybody, and one that is not read would lie."""
    declared = {(one.where, one.name.lower()) for one in route.inputs}
    assert declared == reads(route.handler)
    assert len(declared) == len(route.inputs)


def test_a_handler_that_hides_what_it_reads_is_found_out() -> None:
    """Else the test above would pass by not looking."""

    async def handler(request: Request[None]) -> Reply:
        name = request.params["name"]
        return Reply(200, {"it": request.query.get(name)})

    with pytest.raises(Exception, match="name"):
        reads(handler)


def test_every_operation_says_what_it_may_refuse_and_in_which_form() -> None:
    """PR7: a 429 or 503 says when to come back."""
    for name, operation in operations():
        refusals = {status for status in operation["responses"] if status[0] in "45"}
        if operation.get("security") != []:
            assert refusals >= {"400", "401", "403", "429", "503"}, name
        assert operation["responses"]["default"], name
    for status in ("429", "503"):
        assert DOCUMENT["components"]["responses"][status]["headers"]["Retry-After"]["required"]


def test_every_success_with_a_body_has_a_media_type() -> None:
    for name, operation in operations():
        if "/streams/queue/" in name and operation["summary"] == "Send a message":
            continue  # its answer has no body
        for status, response in operation["responses"].items():
            if status in ("200", "201", "202", "206"):
                assert response["content"], (name, status)


def test_every_mutation_that_is_remembered_takes_an_idempotency_key() -> None:
    """PR5: whoever may repeat a request must be able to find out how."""
    unremembered = {  # by what they do, doing it twice is doing it once
        "/api/v1/db/{db_id}/_open",
        "/api/v1/db/{db_id}/clone",
        "/api/v1/replicate/generations",
        "/api/v1/db/{db_id}/replicas/{replica_id}",
    }
    kept_nowhere = "/api/v1/db/{db_id}/streams/"
    reading = {"/api/v1/lookup", "/api/v1/search", "/api/v1/admin/tokens/why", "/api/v1/db/{db_id}/query/watch"}
    for route in ROUTES:
        if route.path.startswith(kept_nowhere):
            continue
        if route.method not in ("GET", ANY_METHOD) and route.path not in unremembered | reading:
            assert KEY in route.inputs, route.path


def test_a_media_type_of_a_status_that_is_not_declared_does_not_start() -> None:
    async def handler(request: Request[None]) -> Reply:
        return Reply(200)

    with pytest.raises(InvalidRoute, match="media"):
        Route("GET", "/x", "system.read", handler, media={200: ("text/plain",)})
