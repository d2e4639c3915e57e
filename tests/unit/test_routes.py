"""The route table, the adapter's order of checks, authentication, problems, OpenAPI and logs."""

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from api.app import build_app
from api.auth import Access, Principal, parse_authorization
from api.credentials import TokenCredentials
from api.head import Head, Malformed
from api.limits import Limits
from api.openapi import OPENAPI_PATH, openapi_document
from api.problems import encode_problem
from api.routes import PUBLIC, InvalidRoute, Reply, Request, Route
from forge.logs import REDACTED, configure_logs, redact_text
from projectors.control.reading import ControlReader
from schemas.machine_token import SECRET_BYTES, format_token
from schemas.problems import PROBLEM_TYPES, Problem, Refusal
from schemas.scopes import ACTIONS, Scope

TOKEN = "a-token-of-this-test"


class Question(BaseModel):
    hashes: list[str]


class Status(BaseModel):
    status: str


async def answer(request: Request[None]) -> Reply:
    return Reply(200, {"id": request.params.get("name")})


def route(**changes: Any) -> Route:
    given: dict[str, Any] = {"method": "GET", "path": "/x", "scope": "vector.read", "handler": answer}
    return Route(**given | changes)


@pytest.mark.parametrize("scope", ["", "  ", None])
def test_a_route_without_a_scope_does_not_start(scope: object) -> None:
    """PR6: a forgotten scope is an error at start, not an open door."""
    with pytest.raises(InvalidRoute, match="scope"):
        route(scope=scope)


def test_only_the_health_paths_may_be_public() -> None:
    """PR6."""
    route(path="/healthz", scope=PUBLIC)
    with pytest.raises(InvalidRoute, match="may not be public"):
        route(path="/api/v1/lookup", scope=PUBLIC)


@pytest.mark.parametrize("wrong", [{"path": "x"}, {"method": "get"}, {"streaming": True, "body": Question}])
def test_a_contradictory_route_does_not_start(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRoute):
        route(**wrong)


def test_two_routes_cannot_claim_the_same_method_and_path() -> None:
    with pytest.raises(InvalidRoute, match="twice"):
        build_app([route()], [route()], authoriser=Access(TOKEN))


@pytest.mark.parametrize(
    ("header", "known"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer   {TOKEN} ", True),
        (TOKEN, True),
        (f"token {TOKEN}", True),
        (f"TOKEN {TOKEN}", True),
        (f"Bearer Bearer {TOKEN}", False),
        (f"Bearer {TOKEN} {TOKEN}", False),
        ("token", False),
        (f"Basic {TOKEN}", False),
        (f"Bearer {TOKEN}x", False),
        (f"Bearer {TOKEN[:-1]}", False),
        ("Bearer", False),
        ("Bearer  ", False),
        ("Bearer \udcff", False),
        ("", False),
        (None, False),
    ],
)
def test_only_the_exact_token_is_known_in_three_forms(header: str | None, known: bool) -> None:
    """PR6, P1.9."""
    assert (Access(TOKEN).authenticate(header) is not None) is known


@given(st.text(max_size=60) | st.text(max_size=20).map(lambda text: f"Bearer {text}"))
def test_no_header_value_makes_the_check_fail(header: str) -> None:
    """P1.9, PR6: whatever is sent, it is nobody, and why is said without repeating it."""
    access = Access(TOKEN)
    token = parse_authorization(header)
    assert token is None or len(token.split()) == 1
    assert access.authenticate(header) is None
    assert len(access.why_not(header)) < 80


def test_a_principal_has_its_scopes_and_root_has_all() -> None:
    """PR6."""
    access = Access(TOKEN)
    root = access.authenticate(f"Bearer {TOKEN}")
    assert root is not None
    reader = Principal("reader", (Scope(db_id="notes", action="query.read"),))

    assert all(access.allows(root, action) for action in ACTIONS)
    assert access.allows(reader, "query.read", "notes")
    assert not access.allows(reader, "query.read", "other")
    assert not access.allows(reader, "query.read")
    assert not access.allows(reader, "query.write", "notes")
    assert access.allows_anywhere(reader, ("query.write", "query.read"))
    assert not access.allows_anywhere(reader, ("query.write",))
    below = Principal("below", (Scope(db_id="notes", action="pub.publish", resource_prefix="jobs"),))
    assert access.allows_below(below, ("pub.subscribe", "pub.publish"), "notes")
    assert not access.allows_below(below, ("pub.subscribe",), "notes")
    assert not access.allows_below(below, ("pub.publish",), "other")
    assert access.allows_below(root, ("pub.publish",), "other")


@pytest.mark.parametrize("scope", ["x:read", ("query.read", "query.raed"), (), ("query.read", PUBLIC)])
def test_a_route_with_an_unknown_action_does_not_start(scope: object) -> None:
    """PR6, G-27: a misspelt action would be a door that nobody can open, or that everybody can."""
    with pytest.raises(InvalidRoute):
        route(scope=scope)


@pytest.mark.parametrize(
    "wrong",
    [
        {"resource": "queue/{topic}"},
        {"document": "{user}"},
        {"path": "/db/{db_id}", "anywhere": True},
        {"path": "/db/{db_id}", "document": "public"},
        {"path": "/db/{db_id}", "below": True, "resource": "messages"},
        {"below": True},
    ],
)
def test_a_route_whose_place_makes_no_sense_does_not_start(wrong: dict[str, object]) -> None:
    """PR6."""
    with pytest.raises(InvalidRoute):
        route(**wrong)


def test_before_the_control_plane_is_open_only_the_root_token_is_known(tmp_path: Path) -> None:
    """PR6: what lies here may be older than a revocation, so others hear 503 rather than 401 or a wrong yes."""
    reader = ControlReader(tmp_path / "control.db", lambda: False)
    access = Access(TOKEN, TokenCredentials(reader))

    assert access.authenticate(TOKEN) is not None
    assert access.authenticate("misspelt") is None
    with pytest.raises(Refusal) as refused:
        access.authenticate(format_token(bytes(SECRET_BYTES)))
    assert refused.value.problem.status == 503


def test_an_empty_root_token_is_refused() -> None:
    """PR6: an empty file must not become a password that everybody knows."""
    with pytest.raises(ValueError, match="empty"):
        Access(" \n")


def test_every_problem_type_is_complete_and_unique() -> None:
    slugs = [problem_type.slug for problem_type in PROBLEM_TYPES]

    assert len(set(slugs)) == len(slugs)
    for problem_type in PROBLEM_TYPES:
        body = json.loads(encode_problem(problem_type.problem("why"), "id-1")[0])
        assert body == {
            "type": f"urn:forge:problem:{problem_type.slug}",
            "title": problem_type.title,
            "status": problem_type.status,
            "detail": "why",
            "fix": problem_type.fix,
            "error": "why",
            "request_id": "id-1",
        }
        assert problem_type.title
        assert problem_type.fix


def test_every_429_and_503_says_when_to_come_back() -> None:
    """PR7."""
    for problem_type in PROBLEM_TYPES:
        _, headers = encode_problem(problem_type.problem("why"), None)
        assert ("retry-after" in headers) is (problem_type.status in (429, 503))
    _, headers = encode_problem(PROBLEM_TYPES[-2].problem("why", retry_after_s=7), None)
    assert headers["retry-after"] == "7"


def test_the_openapi_document_describes_the_table() -> None:
    table = [
        route(path="/healthz", scope=PUBLIC, replies={200: Status}),
        route(path="/api/v1/x/{name}", method="POST", body=Question, replies={200: Status, 409: Problem}),
        route(path="/api/v1/up/{rest:path}", method="PUT", streaming=True, replies={202: "taken"}),
    ]
    document = openapi_document(table)

    assert document["openapi"] == "3.1.0"
    post = document["paths"]["/api/v1/x/{name}"]["post"]
    assert post["x-forge-scope"] == "vector.read"
    assert [p["name"] for p in post["parameters"]] == ["name"]
    assert post["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Question"}
    assert document["paths"]["/healthz"]["get"]["security"] == []
    assert document["paths"]["/api/v1/up/{rest}"]["put"]["requestBody"]["content"] == {"application/octet-stream": {}}
    ids = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(set(ids)) == len(ids)


def test_every_reference_in_the_openapi_document_resolves() -> None:
    table = [route(path="/api/v1/x/{name}", body=Question, replies={200: Status, 404: Problem})]
    document = openapi_document(table)
    references: list[str] = []

    def collect(value: object) -> None:
        if isinstance(value, dict):
            references.extend(v for k, v in value.items() if k == "$ref")
            for inner in value.values():
                collect(inner)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)

    collect(document)
    assert references
    for reference in references:
        root, components, kind, name = reference.split("/")
        assert (root, components) == ("#", "components")
        assert name in document["components"][kind]
    for item in document["paths"].values():
        for operation in item.values():
            assert operation["responses"]
            assert all(response.keys() & {"description", "$ref"} for response in operation["responses"].values())


def test_the_app_serves_its_own_description() -> None:
    app = build_app([route()], authoriser=Access(TOKEN))

    assert app.describes(OPENAPI_PATH)


@pytest.mark.parametrize(
    ("version", "headers", "status"),
    [
        ("1.1", [], 400),
        ("1.1", [("host", "a"), ("host", "a")], 400),
        ("1.1", [("host", "a/b")], 400),
        ("1.1", [("host", "a"), ("content-length", "1"), ("content-length", "1")], 400),
        ("1.1", [("host", "a"), ("content-length", "1"), ("transfer-encoding", "chunked")], 400),
        ("1.1", [("host", "a"), ("transfer-encoding", "gzip, chunked")], 501),
        ("1.0", [("transfer-encoding", "chunked")], 400),
        ("2.0", [("host", "a")], 505),
        ("0.9", [("host", "a")], 505),
    ],
)
def test_an_ambiguous_head_is_refused(version: str, headers: list[tuple[str, str]], status: int) -> None:
    head = Head(Limits())
    for name, value in headers:
        head.add_header(name.encode(), value.encode())
    with pytest.raises(Malformed) as refused:
        head.check(version, upgrade=False)

    assert refused.value.problem.status == status


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer sesame",
        "nats://writer:sesame@127.0.0.1:4222 refused",
        "token=sesame",
        'password: "sesame"',
    ],
)
def test_secrets_inside_texts_are_not_logged(text: str) -> None:
    assert "sesame" not in redact_text(text)


@pytest.mark.parametrize("style", ["json", "pretty"])
def test_no_secret_reaches_the_log(style: str) -> None:
    stream = io.StringIO()
    root = logging.getLogger()
    before = (root.handlers, root.level)
    try:
        configure_logs("debug", style, stream)
        log = structlog.get_logger("test")
        with structlog.contextvars.bound_contextvars(request_id="r-1"):
            log.info("asked", root_token="sesame", nested={"Authorization": "sesame"}, size=3)
            logging.getLogger("library").warning("to nats://u:%s@h", "sesame")
            try:
                raise RuntimeError("GET with Bearer sesame failed")
            except RuntimeError:
                log.exception("failed")
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        structlog.reset_defaults()
    text = stream.getvalue()

    assert "sesame" not in text
    assert REDACTED in text
    assert "Traceback" in text
    assert text.count("r-1") >= 3
    if style == "json":
        lines = [json.loads(line) for line in text.splitlines()]
        assert lines[0]["event"] == "asked"
        assert lines[0]["size"] == 3
        assert {"level", "timestamp", "logger", "request_id"} <= set(lines[0])
