"""Copy every changed row of a document into a file of JSON lines; run it again and it goes on where it stopped.

`FORGE_URL=... FORGE_TOKEN=... python changes_to_jsonl.py notes notes.jsonl [--once]`. The token needs `query.read`.
A commit is written whole or, if this program is killed in the midst of it, cut off at the next start and written again.
"""

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from forge.client import ClientError, ForgeClient
from schemas.ids import Position

BEGINNING = Position(1, 0)
PAGE = 500


def resume(file: Path) -> Position:
    """Return the last position whose commit is whole in the file, and cut off what follows it."""
    position, whole_bytes, bytes_read = BEGINNING, 0, 0
    with file.open("a+b") as lines:
        lines.seek(0)
        for line in lines:
            bytes_read += len(line)
            if line.endswith(b"\n") and (end := json.loads(line).get("end")):
                position, whole_bytes = Position.parse(end), bytes_read
        lines.truncate(whole_bytes)
    return position


async def main() -> None:
    """Follow the document, or with --once read up to its present end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("db_id")
    parser.add_argument("file", type=Path)
    parser.add_argument("--once", action="store_true")
    given = parser.parse_args()
    after = resume(given.file)
    url, token = os.environ.get("FORGE_URL"), os.environ.get("FORGE_TOKEN")
    if not url or not token:
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    async with ForgeClient(url, token) as forge:
        with given.file.open("a") as out:
            while True:
                try:
                    page = await forge.db(given.db_id).log(after=after, limit=PAGE, rows=True)
                except ClientError as error:
                    if given.once or not error.may_pass:
                        raise
                    print(f"waiting for the node: {error}", file=sys.stderr, flush=True)
                    continue  # the client has waited already
                for change in page.changes:
                    for row in change.changes or ():
                        out.write(row.model_dump_json() + "\n")
                if page.next != str(after):
                    out.write(json.dumps({"end": page.next}) + "\n")
                out.flush()
                after = Position.parse(page.next)
                if page.eof and given.once:
                    return
                if page.eof:
                    await asyncio.sleep(1)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ClientError as error:
        sys.exit(f"changes_to_jsonl.py: {error}")
