"""One document of a node: SQL, watching, its history, and changes made elsewhere."""

import base64
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from pydantic_core import from_json
from ulid import ULID

from forge.client.document_replies import Pushed, Result, Row, Watched, row_of
from forge.client.documents import path_of
from forge.client.errors import UnexpectedAnswer
from forge.client.fences import Fenced, fence_headers
from forge.client.held_lease import HeldLease
from forge.client.leases import Leases
from forge.client.messages import DocumentMessages
from forge.client.sse import lines, resumed
from forge.client.transport import Transport, problem_from
from forge.client.webhooks import Webhooks
from schemas.changes import Change, ChangesPage
from schemas.ids import Position
from schemas.leases import TTL_S_DEFAULT
from schemas.values import SqlValue, encode

Args = Sequence[SqlValue] | Mapping[str, SqlValue]
Statement = str | tuple[str, Args] | Mapping[str, Any]

FEED_SILENCE_S = 60.0
T = TypeVar("T")


class Document(DocumentMessages):
    """`client.db("notes")`. Arguments and rows hold Python's None, int, float, str and bytes.

    Every write carries an idempotency key, so it happens once however often it is sent.
    """

    def __init__(self, transport: Transport, db_id: str) -> None:
        super().__init__(transport, db_id)
        self.leases = Leases(transport, db_id)
        self.webhooks = Webhooks(transport, db_id)

    async def exec(
        self,
        sql: str,
        args: Args = (),
        *,
        at: str | None = None,
        min_position: Position | None = None,
        if_match: Position | None = None,
        fences: Sequence[Fenced] = (),
        key: str | None = None,
        timeout_s: float | None = None,
        max_rows: int | None = None,
    ) -> Result:
        """Run one statement. A read may ask for the past (`at`), or for no older state than `min_position`.

        A write may expect the document to stand `if_match`, and leases to be held (`fences`): else `ForgeError` 412.
        """
        options = {"timeout_seconds": timeout_s, "max_rows": max_rows}
        given = {name: value for name, value in options.items() if value is not None}
        body = {"sql": sql, "args": encoded(args)} | ({"options": given} if given else {})
        response = await self._transport.send(
            "POST",
            path_of(self.db_id, "query", "exec"),
            json=body,
            params=_at(at),
            headers=_headers(key, min_position, if_match) | fence_headers(fences),
        )
        answer, position = self._transport.object(response), self._transport.position(response)
        return self._parsed(lambda: Result.read(answer, position))

    async def batch(
        self,
        statements: Sequence[Statement],
        *,
        at: str | None = None,
        min_position: Position | None = None,
        if_match: Position | None = None,
        fences: Sequence[Fenced] = (),
        key: str | None = None,
    ) -> list[Result]:
        """Run statements, all or none; each is SQL, `(sql, args)`, or a mapping with `sql`, `args`, `expect`."""
        response = await self._transport.send(
            "POST",
            path_of(self.db_id, "query", "batch"),
            json={"statements": [_statement(statement) for statement in statements]},
            params=_at(at),
            headers=_headers(key, min_position, if_match) | fence_headers(fences),
        )
        answer, position = self._transport.object(response), self._transport.position(response)
        return self._parsed(lambda: [Result.read(one, position) for one in answer["results"]])

    async def rows(self, sql: str, args: Args = (), *, at: str | None = None) -> AsyncGenerator[Row]:
        """Yield the rows of a read of any size, as the node finds them. Not repeated if it breaks off."""
        path = path_of(self.db_id, "query", "exec")
        headers = {"Accept": "application/x-ndjson"}
        body = {"sql": sql, "args": encoded(args)}
        complete = False
        async with self._transport.open("POST", path, json=body, params=_at(at), headers=headers) as response:
            async for line in lines(response.aiter_bytes()):
                match self._parsed(partial(from_json, line)):
                    case list() as row:
                        yield row_of(row)
                    case {"problem": problem}:
                        raise problem_from(int(problem.get("status", 500)), problem)
                    case {"row_count": _}:
                        complete = True
        if not complete:
            raise UnexpectedAnswer(self._transport.url, "the rows broke off")

    async def watch(
        self, sql: str, args: Args = (), *, heartbeat_s: int = 15, max_rows: int | None = None, after: str = ""
    ) -> AsyncGenerator[Watched]:
        """Yield the result now and whenever it changes, for ever; a node that goes away is waited for."""
        options = {"heartbeat_seconds": heartbeat_s} | ({"max_rows": max_rows} if max_rows else {})
        body = {"sql": sql, "args": encoded(args), "options": options}
        path = path_of(self.db_id, "query", "watch")
        last = ""
        silence_s = 3.0 * heartbeat_s + 5
        events = resumed(self._transport, "POST", path, json=body, after=after, silence_s=silence_s)
        async with aclosing(events):
            async for event in events:
                if event.name not in ("snapshot", "update"):
                    continue
                watched = self._parsed(partial(Watched.read, event.data))
                if watched.result_hash != last:  # a node that was started anew sends what is known already
                    last = watched.result_hash
                    yield watched

    def lease(self, resource: str, *, owner: str, ttl_s: int = TTL_S_DEFAULT, wait_s: float | None = None) -> HeldLease:
        """Hold a lease while a block runs, `async with`; `wait_s` bounds the wait for it (None: for ever)."""
        return HeldLease(self.leases, resource, owner, ttl_s=ttl_s, wait_s=wait_s)

    async def changes(self, *, after: Position | None = None, tables: Sequence[str] = ()) -> AsyncGenerator[Change]:
        """Yield every commit after `after` (default: from now on), for ever, each with its changed rows.

        A commit with many rows comes in several parts. To go on later, give the position of the last one.
        """

        def params(seen: str) -> dict[str, Any]:
            asked: dict[str, Any] = {"table": list(tables)} if tables else {}
            return asked | ({"after": seen} if seen else {})

        path = path_of(self.db_id, "changes")
        start = str(after) if after else ""
        events = resumed(self._transport, "GET", path, params=params, after=start, silence_s=FEED_SILENCE_S)
        async with aclosing(events):
            async for event in events:
                if event.name == "change":
                    yield self._parsed(partial(Change.model_validate, event.data))

    async def log(
        self,
        *,
        before: Position | None = None,
        after: Position | None = None,
        tables: Sequence[str] = (),
        limit: int = 20,
        rows: bool = False,
    ) -> ChangesPage:
        """Return a page of commits, newest first, or from `after` on oldest first; `rows`: with the changed rows."""
        asked: dict[str, Any] = {"limit": limit, "rows": str(rows).lower()}
        asked |= {"table": list(tables)} if tables else {}
        asked |= {"after": str(after)} if after else {"before": str(before) if before else ""}
        response = await self._transport.send("GET", path_of(self.db_id, "changes"), params=asked)
        return self._transport.parse(ChangesPage, response)

    async def push(
        self,
        base: Position,
        changeset: bytes,
        *,
        policy: str = "fail",
        rebase: bool = False,
        fences: Sequence[Fenced] = (),
        key: str | None = None,
    ) -> Pushed:
        """Take over a SQLite changeset made in a copy at `base`; `ForgeError` 409 names rows that conflict."""
        body = {"base": str(base), "changeset": base64.b64encode(changeset).decode(), "policy": policy}
        response = await self._transport.send(
            "POST",
            path_of(self.db_id, "sync", "push"),
            json=body | {"rebase": rebase},
            headers=_headers(key) | fence_headers(fences),
        )
        answer, position = self._transport.object(response), self._transport.position(response)

        def read() -> Pushed:
            rebased = answer.get("rebased")
            changeset = None if rebased is None else base64.b64decode(rebased)
            applied, omitted, replaced = (int(answer[name]) for name in ("applied", "omitted", "replaced"))
            return Pushed(applied, omitted, replaced, changeset, position)

        return self._parsed(read)


def encoded(args: Args) -> Any:
    """Return arguments as the API takes them."""
    if isinstance(args, Mapping):
        return {name: encode(value) for name, value in args.items()}
    return [encode(value) for value in args]


def _statement(statement: Statement) -> dict[str, Any]:
    match statement:
        case str():
            return {"sql": statement}
        case (str(sql), args):
            return {"sql": sql, "args": encoded(args)}
        case Mapping():
            given = dict(statement)
            return given | ({"args": encoded(given["args"])} if "args" in given else {})
    raise TypeError(f"not a statement: {statement!r}")


def _headers(
    key: str | None = None, min_position: Position | None = None, if_match: Position | None = None
) -> dict[str, str]:
    headers = {"Idempotency-Key": key or str(ULID())}
    headers |= {"Forge-Min-Position": str(min_position)} if min_position else {}
    return headers | ({"If-Match": f'"{if_match}"'} if if_match else {})


def _at(at: str | None) -> dict[str, str]:
    return {"at": at} if at else {}
