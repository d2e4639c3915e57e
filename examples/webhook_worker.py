"""Work on the webhooks of a document: each is claimed by one worker, and claimed again if that one dies.

Start any number of them, on any machines, with `FORGE_URL` and `FORGE_TOKEN` set; the token needs `query.read` and
`query.write` on the document, that of the first one `query.admin` too. Claims are a table of this program's own: rows
of `webhook_inbox` stay as they came.
"""

import argparse
import asyncio
import os
import socket
import sys

from forge.client import ClientError, ForgeClient
from forge.client.document import Document

CLAIM_S = 30
CLAIMS = """CREATE TABLE IF NOT EXISTS webhook_claim (
    id INTEGER PRIMARY KEY, -- of webhook_inbox
    worker TEXT NOT NULL,
    until TEXT NOT NULL,    -- then somebody else may take it
    done_at TEXT)"""
OPEN = """SELECT count(*), max(i.id) FROM webhook_inbox AS i LEFT JOIN webhook_claim AS c USING (id)
    WHERE i.endpoint = ? AND i.signature_valid IS NOT 0 AND c.done_at IS NULL"""
# One statement, so nobody comes between looking and taking; commands of a document happen one after the other.
CLAIM = f"""INSERT INTO webhook_claim (id, worker, until)
    SELECT i.id, ?1, datetime('now', '+{CLAIM_S} seconds')
    FROM webhook_inbox AS i LEFT JOIN webhook_claim AS c USING (id)
    WHERE i.endpoint = ?2 AND i.signature_valid IS NOT 0
        AND (c.id IS NULL OR (c.done_at IS NULL AND c.until < datetime('now')))
    ORDER BY i.id LIMIT 1
    ON CONFLICT (id) DO UPDATE SET worker = excluded.worker, until = excluded.until
    RETURNING id"""
DONE = """UPDATE webhook_claim SET done_at = datetime('now')
    WHERE id = ? AND worker = ? AND done_at IS NULL"""


async def handle(body: object) -> None:
    """Do what a webhook asks for; put yours here. It may happen twice, if a worker dies between this and `DONE`."""
    await asyncio.sleep(0.05)
    print(f"handled {body}", flush=True)


async def work_off(hooks: Document, endpoint: str, worker: str) -> None:
    """Claim and handle until nothing is left."""
    while (claimed := (await hooks.exec(CLAIM, [worker, endpoint])).scalar) is not None:
        body = (await hooks.exec("SELECT payload FROM webhook_inbox WHERE id = ?", [claimed])).scalar
        await handle(body)
        await hooks.exec(DONE, [claimed, worker])


async def work_patiently(hooks: Document, endpoint: str, worker: str) -> None:
    """Work off what can be: what a node that is away leaves undone is looked at again."""
    try:
        await work_off(hooks, endpoint, worker)
    except ClientError as error:
        if not error.may_pass:
            raise
        print(f"waiting for the node: {error}", file=sys.stderr, flush=True)


async def follow(hooks: Document, endpoint: str, worker: str) -> None:
    """Work off whatever comes, as soon as it is there."""
    async for _ in hooks.watch(OPEN, [endpoint]):
        await work_patiently(hooks, endpoint, worker)


async def look_again(hooks: Document, endpoint: str, worker: str) -> None:
    """Take over what was claimed by workers that died: a claim that runs out changes no row."""
    while True:
        await asyncio.sleep(CLAIM_S / 3)
        await work_patiently(hooks, endpoint, worker)


async def main() -> None:
    """Follow an endpoint, or work off what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("document")
    parser.add_argument("endpoint")
    parser.add_argument("--once", action="store_true", help="end when nothing is left")
    options = parser.parse_args()
    worker = f"{socket.gethostname()}:{os.getpid()}"
    url, token = os.environ.get("FORGE_URL"), os.environ.get("FORGE_TOKEN")
    if not url or not token:
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    async with ForgeClient(url, token) as forge:
        hooks = forge.db(options.document)
        if not (await hooks.exec("SELECT 1 FROM sqlite_schema WHERE name = 'webhook_claim'")).rows:
            await hooks.exec(CLAIMS)
        if options.once:
            await work_off(hooks, options.endpoint, worker)
            return
        await asyncio.gather(follow(hooks, options.endpoint, worker), look_again(hooks, options.endpoint, worker))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ClientError as error:
        sys.exit(f"webhook_worker.py: {error}")
