"""Odd requests to the registry and to tokens: every one is answered, and none with a 5xx."""

import json
import random
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from tests.conftest import StartNats
from tests.control import Served, served_control

TIMES = 600
TEXTS = (
    "",
    "a",
    "notes",
    "*",
    "a*",
    "..",
    "x" * 300,
    "ä",
    "\x00",
    "\n",
    "\u202e",
    "😀",
    "'; DROP TABLE token; --",
    "%",
)
MOMENTS = (None, "2030-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "0999-01-01", 1e11)
NUMBERS = (0, 1, -1, 2**31, 2**63, 2**64, 1e308, 0.5, True)
FIELDS = (
    "db_id",
    "name",
    "label",
    "is_admin",
    "expires_at",
    "scopes",
    "token",
    "action",
    "resource",
    "resource_prefix",
)
PATHS = (
    ("POST", "/api/v1/db"),
    ("GET", "/api/v1/db"),
    ("GET", "/api/v1/db/{}"),
    ("PATCH", "/api/v1/db/{}"),
    ("DELETE", "/api/v1/db/{}"),
    ("POST", "/api/v1/db/{}/archive"),
    ("POST", "/api/v1/db/{}/undelete"),
    ("POST", "/api/v1/db/{}/_open"),
    ("GET", "/api/v1/db/{}/_status"),
    ("GET", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/admin/tokens"),
    ("POST", "/api/v1/admin/tokens/why"),
    ("DELETE", "/api/v1/admin/tokens/{}"),
    ("GET", "/api/v1/admin/audit"),
)


def value(rng: random.Random, depth: int = 0) -> Any:
    """Return some JSON value."""
    kind = rng.randrange(7 if depth < 3 else 4)
    if kind == 0:
        return rng.choice(TEXTS)
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind == 2:
        return rng.choice(MOMENTS)
    if kind == 3:
        return rng.choice(["query.read", "admin.token", "db.create"])
    if kind == 4:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(FIELDS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def body(rng: random.Random) -> bytes:
    """Return a body that is nearly right, or nothing like one."""
    if rng.random() < 0.1:
        return rng.choice(
            [b"", b"{", b"null", b"[]", b'"\\ud800"', b'{"db_id": "\\ud800"}', b"\xff\xfe", b'{"a":1}' * 2]
        )
    asked: dict[str, Any] = {rng.choice(FIELDS): value(rng) for _ in range(rng.randrange(4))}
    if rng.random() < 0.5:
        asked |= {
            "label": "x",
            "expires_at": rng.choice(MOMENTS),
            "scopes": [{"db_id": value(rng, 3), "action": "query.read"}],
        }
        asked["is_admin"] = rng.choice([False, False, True, "no"])
        if rng.random() < 0.5:
            asked["scopes"] = []
    return json.dumps(asked).encode()


async def odd_request(served: Served, rng: random.Random) -> tuple[int, str]:
    """Send one; return the status and what it was."""
    method, path = rng.choice(PATHS)
    name = rng.choice([text.encode() for text in TEXTS] + [b"\xff", b"\xed\xa0\x80", b"0" * 24])
    path = path.format(quote_from_bytes(name, safe=""))
    names = ("after", "limit", "q", "state", "before", "subject")
    query = "&".join(
        f"{rng.choice(names)}={quote_from_bytes(str(rng.choice(TEXTS + NUMBERS)).encode())}"
        for _ in range(rng.randrange(3))
    )
    headers = rng.choice([{}, {"idempotency-key": rng.choice(["k", "x" * 300])}, {"forge-min-position": "1.0"}])
    content = body(rng) if method in ("POST", "PATCH") else None
    reply = await served.ask(method, f"{path}?{query}", content=content, headers=headers)
    return reply.status_code, f"{method} {path}?{query} {headers} {content!r}: {reply.text}"


async def test_no_request_makes_the_node_fail(start_nats: StartNats, tmp_path: Path) -> None:
    """PR7: whatever is sent, the answer says what is wrong with it."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    async with served_control(await start_nats(), tmp_path / "control") as served:
        seen: dict[int, int] = {}
        for _ in range(TIMES):
            status, what = await odd_request(served, rng)
            assert status < 500, what
            seen[status] = seen.get(status, 0) + 1
        assert {200, 400, 404} <= set(seen), seen
