"""A command that used an object store ends with its own code, though threads of Rust are still at something."""

import asyncio
import sys
from pathlib import Path

RUNS = 16  # without care, every third or so is aborted
CODE = 3
SCRIPT = f"""
import asyncio, atexit, sys
import click, obstore
from obstore.store import S3Store
from forge.cli import COMMANDS, main

keys = dict(access_key_id="a", secret_access_key="b", region="r")
nobody = dict(endpoint="http://127.0.0.1:1", client_options=dict(allow_http=True), retry_config=dict(max_retries=0))
store = S3Store("bucket", **keys, **nobody)

async def asked():
    under_way = [asyncio.ensure_future(obstore.get_async(store, str(number))) for number in range(128)]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

@click.command()
def ask():
    asyncio.run(asked())
    print("asked")
    return {CODE}

atexit.register(print, "the last")
COMMANDS["ask"] = ("__main__:ask", "")
sys.argv[1:] = ["ask"]
main()
"""


async def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    """And what is due at the end of the process is done, and printed."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for _ in range(RUNS):
        process = await asyncio.create_subprocess_exec(sys.executable, str(script), stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert (process.returncode, out.decode().split("\n")) == (CODE, ["asked", "the last", ""])
