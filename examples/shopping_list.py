"""A list that several people share: read from a local replica, at once and also offline; written through the node.

Run it on any machine that has Forge installed: `FORGE_URL=... FORGE_TOKEN=... python shopping_list.py [ITEM...]`.
The token needs `query.read` and `query.write` on the document, that of the first who runs it `db.create` and
`query.admin` too.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from forge.client import ClientError, ForgeClient, ForgeError
from forge.replica import Replica, ReplicaError

DB_ID = "shopping"
NOT_FOUND = 404
TABLE = "CREATE TABLE item (what TEXT PRIMARY KEY, added TEXT DEFAULT CURRENT_TIMESTAMP)"


async def prepare(url: str, token: str) -> None:
    """Make the document and its table, if nobody has."""
    async with ForgeClient(url, token) as forge:
        try:
            await forge.documents.show(DB_ID)
        except ForgeError as refused:
            if refused.status != NOT_FOUND:
                raise
            await forge.documents.create(DB_ID, name="Shopping")
        if not (await forge.db(DB_ID).exec("SELECT 1 FROM sqlite_schema WHERE name = 'item'")).rows:
            await forge.db(DB_ID).exec(
                "CREATE TABLE item (what TEXT PRIMARY KEY, added TEXT DEFAULT CURRENT_TIMESTAMP)"
            )


async def main() -> None:
    """Add the items of the command line, then print the list as this machine knows it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items", nargs="*", metavar="ITEM")
    parser.add_argument("--file", type=Path, default=Path("shopping.db"), help="the local copy")
    given = parser.parse_args()
    url, token = os.environ.get("FORGE_URL"), os.environ.get("FORGE_TOKEN")
    if not url or not token:
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    if not given.file.exists():
        await prepare(url, token)
    async with Replica(url, token, DB_ID, given.file) as replica:
        for item in given.items:
            await replica.exec("INSERT INTO item (what) VALUES (?) ON CONFLICT DO NOTHING", [item])
        for added, what in (await replica.read("SELECT added, what FROM item ORDER BY added, what")).rows:
            print(added, what, sep="  ")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (ClientError, ReplicaError) as error:
        sys.exit(f"shopping_list.py: {error}")
