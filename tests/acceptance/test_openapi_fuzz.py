"""Schemathesis over the whole OpenAPI document of a real node, as its owner and as somebody with little to say."""

import asyncio
import copy
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests
import schemathesis
from blake3 import blake3
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from forge.datadir import read_root_token
from forge.embedded import running
from schemas.scopes import ACTIONS
from schemas.settings import Settings
from tests.conftest import ServedNode

AnyCase = Case[APIOperation[Any, Any, Any, Any]]
CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
DOCUMENTS = ("one", "two.with-all_signs", "3")
WAITS: dict[str, tuple[Any, ...]] = {
    "wait_ms": (0, 50, -1, "x"),
    "wait_seconds": (0, 0.05, -1),
    "Forge-Min-Position": ("1.0", "1.0", "1,0"),
    "timeout": ("0.01", "0.05", "0", "x"),
}
"""What is waited for is chosen here alone, since the node waits for as long as it is asked to."""
RELAYS = ("/streams/", "/public/", "/p/", "/u/")
"""Below these whoever does not say how long he waits would wait for ever."""
REQUEST_S = 30
EXAMPLES, EXAMPLES_LONG = 30, 500  # of each operation, of what is valid and of what is not
SQL = (
    "SELECT 1",
    "SELECT * FROM t",
    "SELECT a, b FROM t WHERE a > ?1",
    "INSERT INTO t (b) VALUES ('x') RETURNING a, b",
    "UPDATE t SET b = randomblob(9)",
    "DELETE FROM t WHERE a % 2",
    "CREATE TABLE IF NOT EXISTS u (x)",
    "DROP TABLE IF EXISTS u",
    "PRAGMA table_info(t)",
    "SELECT 9223372036854775807, 1e999, x'00ff', NULL",
    "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "SELECT 1; SELECT 2",
    "BEGIN",
)
SENSIBLE: dict[str, tuple[Any, ...]] = {
    "db_id": DOCUMENTS,
    "sql": SQL,
    "args": ([], [], [1], {"1": 2.5}, [{"$int": "9007199254740993"}], [{"$blob": "AA=="}]),
    "timeout_seconds": (0.05, 0.2),
    "heartbeat_seconds": (1,),
    "after": ("1.0", "1.1", "0", "9.9"),
    "before": ("1.2", "", "2.1"),
    "at": ("1.1", "1.2", "2030-01-01T00:00:00Z", "1.99"),
    "base": ("1.0", "1.1", "2.2"),
    "segment": (1, 1, 2),
    "offset": (0, 1, 10**9),
    "Range": ("bytes=0-99", "bytes=-5", "bytes=9999999-", "bytes=9-1"),
    "If-Match": ("*", '"1.1"'),
    "If-Fence": ("jobs/nightly=1", "jobs/nightly=2,jobs=1", "jobs"),
    "resource": ("jobs/nightly", "jobs", ""),
    "owner": ("ada", "bob"),
    "endpoint": ("github/push", "door", ""),
    "provider": ("none", "github", "standard"),
    "secrets": (None, ["whsec_AAAA"], []),
    "policy": ("record", "reject"),
    "ttl_seconds": (1, 30),
    "Last-Event-ID": ("1.1", "1.0"),
    "Idempotency-Key": ("again", "and-again"),
    "action": ACTIONS,
    "resource_prefix": (None, "query"),
    "expires_at": (None, "2099-01-01T00:00:00Z"),
    "label": ("a label",),
    "hashes": (["0" * 64],),
    "hash": ("0" * 64,),
    "vector": ([1.0, 2.0],),
    "kind": ("image", "text"),
    "X-Embedding-Kind": ("text",),
}
"""Per name of a parameter, header or field: what a caller might say, right or wrong."""


@pytest.fixture
async def unhurried_node(tmp_path: Path) -> AsyncIterator[ServedNode]:
    """A node without limits on rates, since a 429 would hide what lies behind it."""
    rates = {f"FORGE_RATE_{kind}{more}": "1000000" for kind in ("GLOBAL", "TOKEN") for more in ("", "_BURST")}
    rates |= {f"FORGE_RATE_DOCUMENT{more}": "1000000" for more in ("", "_BURST")}
    home = {"FORGE_DATA_DIR": str(tmp_path / "node"), "FORGE_CACHE_DIR": str(tmp_path / "cache")}
    loaded = Settings.load(home | rates)
    async with running(loaded, listen="127.0.0.1:0") as served:
        yield ServedNode(served.url, read_root_token(loaded.data_dir))


@dataclass
class Caller:
    """Sends cases with one token and looks at what comes back."""

    node: ServedNode
    token: str
    session: requests.Session
    asked: Counter[int] = field(default_factory=Counter)
    by_route: dict[str, Counter[int]] = field(default_factory=dict)
    wrong: dict[tuple[str, str], str] = field(default_factory=dict)
    """The first case of each kind of failure of each operation, and how to send it again."""

    def send(self, case: AnyCase) -> None:
        """Send one, and note what is wrong with the answer."""
        try:
            self._send(case)
        except (AssertionError, FailureGroup, requests.RequestException, ValueError, KeyError) as error:
            kinds = error.exceptions if isinstance(error, FailureGroup) else [error]
            for kind in kinds:
                place = (case.operation.label, type(kind).__name__)
                self.wrong.setdefault(place, f"{kind}\n{case.as_curl_command()}")

    def _send(self, case: AnyCase) -> None:
        """Fail on a 5xx that nobody promised, and on an answer that is not as the document says."""
        headers = {"authorization": f"Bearer {self.token}"}
        response = case.call(base_url=self.node.url, session=self.session, headers=headers, timeout=REQUEST_S)
        status = response.status_code
        self.asked[status] += 1
        self.by_route.setdefault(case.operation.label, Counter())[status] += 1
        if status >= 500:
            assert status == 503, f"{status}: {response.text[:500]}\n{case.as_curl_command()}"
            assert int(response.headers["retry-after"][0]) >= 1
        if status >= 400 and case.operation.path != "/readyz" and case.method.upper() != "HEAD":
            if response.headers["content-type"][0].startswith("text/plain"):
                assert ": " in response.text
            else:
                problem = json.loads(response.content)
                assert problem["status"] == status
                assert problem["detail"]
                assert problem["fix"]
        case.validate_response(response, checks=CHECKS)


def ask_as_root(node: ServedNode, method: str, path: str, **options: Any) -> httpx2.Response:
    headers = {"authorization": f"Bearer {node.token}"}
    return httpx2.request(method, node.url + path, headers=headers, timeout=REQUEST_S, **options)


def lay_out(node: ServedNode) -> None:
    """Make the documents, or mend what the last operation did to them."""
    for db_id in DOCUMENTS:
        path = f"/api/v1/db/{db_id}"
        if ask_as_root(node, "POST", "/api/v1/db", json={"db_id": db_id}).status_code not in (200, 201):
            assert ask_as_root(node, "POST", f"{path}/undelete").status_code == 200
        assert ask_as_root(node, "POST", f"{path}/unarchive").status_code == 200
        sql = "CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b)"
        reply = ask_as_root(node, "POST", f"{path}/query/exec", json={"sql": sql})
        assert reply.status_code == 200, reply.text
        assert ask_as_root(node, "POST", f"{path}/messages?topic=a&retain=true", content=b"1").status_code == 201


def sensible(case: AnyCase, choose: random.Random, often: float) -> AnyCase:
    """Put values that mean something into most of the places that are there, so that a case gets beyond the checks."""
    containers = [case.path_parameters, case.query, case.headers, *_objects(case.body)]
    for container in containers:
        for name in container or ():
            if name in WAITS or (name in SENSIBLE and choose.random() < often):
                value = copy.deepcopy(choose.choice(WAITS.get(name) or SENSIBLE[name]))
                container[name] = str(value) if container is case.headers else value
    if any(path in case.operation.path for path in RELAYS):
        case.query = {**(case.query or {}), "timeout": choose.choice(WAITS["timeout"])}
    if case.operation.path.endswith("/events/stream"):
        follow(case, choose)
    if "X-File-Hash" in (case.headers or {}) and choose.random() < often:
        case.body = choose.randbytes(choose.choice([0, 9, 9, 9]))
        case.headers["X-File-Hash"] = blake3(case.body).hexdigest()
    media = case.operation.definition.raw["responses"].get("200", {}).get("content", {})
    if case.headers is not None and media:
        case.headers["Accept"] = choose.choice([*media, "*/*"])
    return case


def follow(case: AnyCase, choose: random.Random) -> None:
    """Let a stream of messages begin with one, or be refused: what is to come is waited for."""
    query = {**(case.query or {}), "topic": choose.choice(["#", ["a", "+"], "a#"]), "since_id": 0}
    if "tail" in query:
        query["tail"] = choose.choice([1, -1])
        del query[choose.choice(["tail", "since_id"])]
    case.query = query
    if "Last-Event-ID" in (case.headers or {}):
        case.headers["Last-Event-ID"] = choose.choice(["0", "99999", "1.1"])


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object in a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict):
        yield value
    for one in list(inner):
        yield from _objects(one)


def run(document: dict[str, Any], caller: Caller, examples: int, number: int) -> None:
    """Ask every operation, half of the times what the document allows and half what it does not."""
    schema = schemathesis.openapi.from_dict(document)
    schema.config.max_stream_events = 1  # of an endless stream
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if caller.token == caller.node.token:
            lay_out(caller.node)
        ask(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), caller, 0.9, examples, number)
        if any(True for _ in operation.iter_parameters()) or operation.body:  # else nothing wrong can be said
            ask(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), caller, 0.5, examples, number)


def ask(cases: st.SearchStrategy[AnyCase], caller: Caller, often: float, examples: int, number: int) -> None:
    """Send some of `cases`."""

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases, choose=st.randoms(use_true_random=False))
    def send(case: AnyCase, choose: random.Random) -> None:
        caller.send(sensible(case, choose, often))

    send()


async def fuzz(node: ServedNode, token: str, examples: int) -> Counter[int]:
    number = random.randrange(2**32)
    print(f"seed {number}")
    document = (await asyncio.to_thread(ask_as_root, node, "GET", "/api/v1/openapi.json")).json()
    with requests.Session() as session:
        caller = Caller(node, token, session)
        await asyncio.to_thread(run, document, caller, examples, number)
    for route, counted in caller.by_route.items():
        print(f"{route:60} {dict(sorted(counted.items()))}")
    assert not caller.wrong, "\n\n".join(f"{' '.join(place)}: {why}" for place, why in caller.wrong.items())
    return caller.asked


async def test_whatever_an_admin_asks_no_answer_is_an_error_of_the_node(unhurried_node: ServedNode) -> None:
    """PR6, PR7, P2.1: every operation of the document, valid and invalid; answers are as the document says."""
    asked = await fuzz(unhurried_node, unhurried_node.token, EXAMPLES)
    assert asked[200] > EXAMPLES * 10


async def test_whatever_a_reader_asks_nothing_is_written_and_no_answer_is_an_error(unhurried_node: ServedNode) -> None:
    """PR6, PR7, P2.3: a token that may read one document gets to see that one, and changes none."""
    scopes = [{"action": "query.read", "db_id": DOCUMENTS[0]}]
    body = {"label": "reads one", "scopes": scopes}
    minted = await asyncio.to_thread(ask_as_root, unhurried_node, "POST", "/api/v1/admin/tokens", json=body)
    await asyncio.to_thread(lay_out, unhurried_node)
    before = await asyncio.to_thread(positions, unhurried_node)

    asked = await fuzz(unhurried_node, minted.json()["token"], EXAMPLES // 2)

    assert asked[403] > EXAMPLES
    assert asked[200] > EXAMPLES
    assert {asked[201], asked[202], asked[204]} == {0}
    assert await asyncio.to_thread(positions, unhurried_node) == before


@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_whatever_is_asked_for_long_no_answer_is_an_error_of_the_node(unhurried_node: ServedNode) -> None:
    """PR6, PR7: as above, with more cases."""
    await fuzz(unhurried_node, unhurried_node.token, EXAMPLES_LONG)


def positions(node: ServedNode) -> dict[str, tuple[str, Any]]:
    """Return where each document stands, and what is in it."""
    found = {}
    for db_id in DOCUMENTS:
        reply = ask_as_root(node, "POST", f"/api/v1/db/{db_id}/query/exec", json={"sql": "SELECT * FROM t"})
        found[db_id] = (reply.headers["forge-position"], reply.json()["rows"])
    return found
