"""Settings of webhook endpoints over HTTP, on a real log: what is shown and kept of them, and their secrets."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.conftest import StartNats
from tests.leasing import Leasing, served_leases

DB = "hooks"
SECRET = "it is a secret"


@pytest_asyncio.fixture
async def hooks(start_nats: StartNats, tmp_path: Path) -> AsyncIterator[Leasing]:
    """Serve webhooks of one document."""
    async with served_leases(await start_nats(), tmp_path) as served:
        await served.create(DB)
        yield served


async def test_settings_of_endpoints(hooks: Leasing, tmp_path: Path) -> None:
    """D.4: set, shown without secrets, kept when only the rest changes, removed."""
    one = f"/api/v1/db/{DB}/webhook-endpoints/gh/push"
    assert (await hooks.ask("GET", one)).status_code == 404
    view = (await hooks.endpoint(DB, "gh/push", provider="github", secrets=[SECRET, "old"], dedupe=True)).json()
    assert view.keys() == {"endpoint", "provider", "policy", "dedupe", "secrets", "set_at", "set_by"}
    assert (view["provider"], view["policy"], view["dedupe"], view["secrets"]) == ("github", "record", True, 2)
    kept = (await hooks.endpoint(DB, "gh/push", provider="github", policy="reject")).json()
    assert (kept["policy"], kept["dedupe"], kept["secrets"]) == ("reject", False, 2)
    assert (await hooks.ask("GET", one)).json() == kept
    assert (await hooks.endpoint(DB, "gh/push", provider="github", policy="reject")).json() == kept
    assert (await hooks.ask("GET", f"/api/v1/db/{DB}/webhook-endpoints")).json() == {"endpoints": [kept]}
    assert (await hooks.ask("DELETE", one)).status_code == 204
    assert (await hooks.ask("DELETE", one)).status_code == 404
    assert (await hooks.ask("GET", f"/api/v1/db/{DB}/webhook-endpoints")).json() == {"endpoints": []}
    audit = (await hooks.ask("GET", f"/api/v1/admin/audit?subject={DB}")).json()["entries"]
    assert [one["action"] for one in audit][:2] == ["webhook.removed", "webhook.set"]
    assert audit[1]["detail"]["secrets"] == 2
    assert not _files_with(tmp_path, SECRET.encode())
    assert os.stat(tmp_path / "node.key").st_mode & 0o777 == 0o600


async def test_another_provider_needs_its_own_secrets(hooks: Leasing) -> None:
    """D.4: those of the one before need not even be such that it can check with them."""
    assert (await hooks.endpoint(DB, "x", provider="github", secrets=["!!"])).status_code == 200
    refused = await hooks.endpoint(DB, "x", provider="standard")
    assert (refused.status_code, refused.json()["field"]) == (400, "secrets")
    standard = await hooks.endpoint(DB, "x", provider="standard", secrets=["c2VjcmV0"])
    assert (standard.status_code, standard.json()["secrets"]) == (200, 1)
    assert (await hooks.webhook(DB, "x")).status_code == 201


def _files_with(directory: Path, text: bytes) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize(
    "wrong",
    [
        {"provider": "nobody", "secrets": ["s"]},
        {"provider": "github"},
        {"provider": "github", "secrets": []},
        {"provider": "standard", "secrets": ["whsec_?"]},
        {"policy": "reject"},
        {"policy": "perhaps"},
        {"secrets": ["s"]},
        {"provider": "github", "secrets": ["s"] * 5},
        {"provider": "github", "secrets": [""]},
        {"more": 1},
    ],
)
async def test_settings_that_make_no_sense_are_refused(hooks: Leasing, wrong: dict[str, Any]) -> None:
    """D.4."""
    assert (await hooks.endpoint(DB, "x", **wrong)).status_code == 400


async def test_repeating_settings_is_safe_though_encryption_is_random(hooks: Leasing) -> None:
    """PR5."""
    path, body = f"/api/v1/db/{DB}/webhook-endpoints/x", {"provider": "github", "secrets": [SECRET]}
    first = await hooks.ask("PUT", path, body, idempotency_key="k")
    again = await hooks.ask("PUT", path, body, idempotency_key="k")
    assert (again.status_code, again.json()) == (200, first.json())
    other = await hooks.ask("PUT", path, body | {"secrets": ["another"]}, idempotency_key="k")
    assert other.status_code == 422
