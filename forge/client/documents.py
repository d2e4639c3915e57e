"""The documents of a node: which there are, and their names and states."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from ulid import ULID

from forge.client.transport import Transport
from schemas.clone import CloneReply
from schemas.ids import parse_db_id
from schemas.registry import DocumentsReply, DocumentView

PAGE = 500


class Documents:
    """`client.documents`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, db_id: str, *, name: str | None = None) -> DocumentView:
        """Make a document, or show it if it is the caller's already; `ForgeError` 409 if it is somebody else's."""
        body = {"db_id": parse_db_id(db_id)} | ({"name": name} if name else {})
        return await self._ask("POST", "/api/v1/db", body)

    async def page(
        self, *, query: str | None = None, state: str | None = None, after: str | None = None, limit: int = PAGE
    ) -> DocumentsReply:
        """Return a page by `db_id`; its `next` is the `after` of the following one. `state` may be `deleted` too."""
        asked = {"q": query, "state": state, "after": after, "limit": limit}
        params = {name: value for name, value in asked.items() if value is not None}
        return self._transport.parse(DocumentsReply, await self._transport.send("GET", "/api/v1/db", params=params))

    async def all(self, *, query: str | None = None, state: str | None = None) -> AsyncIterator[DocumentView]:
        """Yield every document that the token may do something on."""
        after: str | None = None
        while True:
            page = await self.page(query=query, state=state, after=after)
            for document in page.documents:
                yield document
            after = page.next
            if after is None:
                return

    async def show(self, db_id: str) -> DocumentView:
        """Describe a document."""
        return await self._ask("GET", path_of(db_id))

    async def rename(self, db_id: str, name: str) -> DocumentView:
        """Change the name for people; the `db_id` stays."""
        return await self._ask("PATCH", path_of(db_id), {"name": name})

    async def archive(self, db_id: str) -> DocumentView:
        """Refuse writes from now on."""
        return await self._ask("POST", path_of(db_id, "archive"))

    async def unarchive(self, db_id: str) -> DocumentView:
        """Take writes again."""
        return await self._ask("POST", path_of(db_id, "unarchive"))

    async def delete(self, db_id: str) -> None:
        """Take a document away from everybody, until `undelete`."""
        await self._transport.send("DELETE", path_of(db_id), headers=_once())

    async def undelete(self, db_id: str) -> DocumentView:
        """Bring a deleted document back."""
        return await self._ask("POST", path_of(db_id, "undelete"))

    async def clone(self, db_id: str, new: str, *, at: str | None = None, name: str | None = None) -> CloneReply:
        """Make the document `new` with the content of `db_id`, now or `at` a position or RFC 3339 time."""
        asked = {"db_id": parse_db_id(new), "at": at, "name": name}
        body = {field: value for field, value in asked.items() if value is not None}
        return await self._transport.ask(CloneReply, "POST", path_of(db_id, "clone"), body)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> DocumentView:
        response = await self._transport.send(method, path, json=body, headers=_once())
        return self._transport.parse(DocumentView, response)


def path_of(db_id: str, *rest: str) -> str:
    """Return the path of a document, or of something below it; raise `InvalidId`."""
    return "/".join(("/api/v1/db", quote(parse_db_id(db_id), safe=""), *rest))


def _once() -> dict[str, str]:
    """Return what makes a request happen once, however often it is sent."""
    return {"Idempotency-Key": str(ULID())}
