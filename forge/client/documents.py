"""The documents of a node: which there are, and their names and states."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from forge.client.transport import Transport
from schemas.ids import parse_db_id

PAGE = 500


class Documents:
    """`client.documents`. Descriptions are the JSON objects of the API, with `db_id`, `name`, `state` and times."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, db_id: str, *, name: str | None = None) -> dict[str, Any]:
        """Make a document; `ForgeError` with status 409 if somebody else has one of that name."""
        body = {"db_id": parse_db_id(db_id)} | ({"name": name} if name else {})
        return await self._ask("POST", "/api/v1/db", body)

    async def list(
        self, *, query: str | None = None, state: str | None = None, after: str | None = None, limit: int = PAGE
    ) -> dict[str, Any]:
        """Return a page: `documents`, and `next` to give as `after` if there are more."""
        asked = {"q": query, "state": state, "after": after, "limit": limit}
        params = {name: value for name, value in asked.items() if value is not None}
        return self._transport.object(await self._transport.send("GET", "/api/v1/db", params=params))

    async def all(self, *, query: str | None = None, state: str | None = None) -> AsyncIterator[dict[str, Any]]:
        """Yield every document that the token may do something on."""
        after: str | None = None
        while True:
            page = await self.list(query=query, state=state, after=after)
            for document in page["documents"]:
                yield document
            after = page.get("next")
            if after is None:
                return

    async def show(self, db_id: str) -> dict[str, Any]:
        """Describe a document."""
        return await self._ask("GET", path_of(db_id))

    async def rename(self, db_id: str, name: str) -> dict[str, Any]:
        """Change the name for people; the `db_id` stays."""
        return await self._ask("PATCH", path_of(db_id), {"name": name})

    async def archive(self, db_id: str) -> dict[str, Any]:
        """Refuse writes from now on."""
        return await self._ask("POST", path_of(db_id, "archive"))

    async def unarchive(self, db_id: str) -> dict[str, Any]:
        """Take writes again."""
        return await self._ask("POST", path_of(db_id, "unarchive"))

    async def delete(self, db_id: str) -> None:
        """Take a document away from everybody, until `undelete`."""
        await self._transport.send("DELETE", path_of(db_id))

    async def undelete(self, db_id: str) -> dict[str, Any]:
        """Bring a deleted document back."""
        return await self._ask("POST", path_of(db_id, "undelete"))

    async def clone(self, db_id: str, new: str, *, at: str | None = None, name: str | None = None) -> dict[str, Any]:
        """Make the document `new` with the content of `db_id`, now or `at` a position or RFC 3339 time."""
        asked = {"db_id": parse_db_id(new), "at": at, "name": name}
        return await self._ask("POST", path_of(db_id, "clone"), {k: v for k, v in asked.items() if v is not None})

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        response = await self._transport.send(method, path, json=body)
        return self._transport.object(response) if response.content else {}


def path_of(db_id: str, *rest: str) -> str:
    """Return the path of a document, or of something below it; raise `InvalidId`."""
    return "/".join(("/api/v1/db", quote(parse_db_id(db_id), safe=""), *rest))
