"""Run commands of an allow-list on another machine, by requests and answers of the stream relay.

The worker needs no open port, only a way to the node. On the machine that runs commands:
`python remote_shell.py serve uptime 'df -h' 'systemctl status {}'`; where they are wanted:
`python remote_shell.py run df -h`. `{}` stands for one argument of the caller's choice that is no option. No shell is
involved, so nothing in it is more than text. FORGE_URL and FORGE_TOKEN say where and who; the document is `home`, or
`--document`.

Both sides need `stream.write` on `res/shell`, `req/shell` and the answers' channels, so give a token for the whole
document, and only to those who may run what the worker allows.
"""

import argparse
import asyncio
import json
import os
import secrets
import shlex
import sys
from collections.abc import Sequence
from typing import Any

import httpx2

ANY_ARGUMENT = "{}"
RUN_S_MAX = 20.0  # an answer must come within FORGE_RELAY_SWITCH_TIMEOUT_S, 30 s
OUTPUT_BYTES_MAX = 1 << 20
AT_ONCE = 4
PAUSE_S, PAUSE_S_MAX = 0.5, 30.0
OK, FORBIDDEN, TIMED_OUT = 200, 403, 504
EXIT_HEADER = "X-Exit-Code"


class NotServed(Exception):
    """The node will not let us answer, however often we ask."""


def is_allowed(wanted: Sequence[str], patterns: Sequence[Sequence[str]]) -> bool:
    """Say whether a command is one of the patterns, word by word."""
    return any(
        len(wanted) == len(pattern)
        and all(
            given == expected or (expected == ANY_ARGUMENT and not given.startswith("-"))
            for given, expected in zip(wanted, pattern, strict=True)
        )
        for pattern in patterns
    )


def parse_command(body: bytes) -> list[str] | None:
    """Return the words of a command, None if the body holds none."""
    try:
        words = json.loads(body)
    except ValueError:
        return None
    valid = isinstance(words, list) and words and all(isinstance(word, str) and "\0" not in word for word in words)
    return words if valid else None


async def run(words: Sequence[str]) -> tuple[int, str, bytes]:
    """Run a command; return the status of the answer, the exit code, and what was printed."""
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        return OK, "127", f"{error}\n".encode()
    assert process.stdout is not None
    try:
        async with asyncio.timeout(RUN_S_MAX):
            printed = b""
            while len(printed) < OUTPUT_BYTES_MAX and (more := await process.stdout.read(OUTPUT_BYTES_MAX)):
                printed += more
            if len(printed) >= OUTPUT_BYTES_MAX:
                process.kill()
            return OK, str(await process.wait()), printed[:OUTPUT_BYTES_MAX]
    except TimeoutError:
        process.kill()
        await process.wait()
        return TIMED_OUT, "124", f"stopped after {RUN_S_MAX:g} s\n".encode()


async def answer_one(http: httpx2.AsyncClient, patterns: Sequence[Sequence[str]]) -> None:
    """Take one request, run what it asks for if that is allowed, and answer it."""
    channel = f"reply-{secrets.token_hex(16)}"  # nobody else may guess where the answer is expected
    request = await http.post("res/shell?switch", content=channel)
    request.raise_for_status()
    words = parse_command(request.content)
    if words is None or not is_allowed(words, patterns):
        status, code, printed = FORBIDDEN, "126", b"this is not allowed here\n"
    else:
        status, code, printed = await run(words)
    print(status, code, shlex.join(words or ["?"]), flush=True)
    headers = {"Patch-Status": str(status), f"Patch-H-{EXIT_HEADER}": code, "Content-Type": "application/octet-stream"}
    await http.post(f"queue/{channel}", content=printed, headers=headers)  # 410: the caller has left


async def serve(http: httpx2.AsyncClient, patterns: Sequence[Sequence[str]]) -> None:
    """Answer requests for ever; a node that is away is waited for."""
    pause_s = PAUSE_S
    while True:
        try:
            await answer_one(http, patterns)
            pause_s = PAUSE_S
        except (httpx2.TransportError, httpx2.HTTPStatusError) as failed:
            if isinstance(failed, httpx2.HTTPStatusError) and failed.response.status_code in (401, 403, 404):
                raise NotServed(f"{failed.response.status_code}: {failed.response.text}") from None
            print(f"waiting for the node: {failed}", file=sys.stderr, flush=True)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)


async def ask(http: httpx2.AsyncClient, words: Sequence[str]) -> int:
    """Have a command run by whoever serves; print what it printed, and return its exit code."""
    reply = await http.post("req/shell", content=json.dumps(words))
    sys.stdout.buffer.write(reply.content)
    sys.stdout.buffer.flush()
    return int(reply.headers.get(EXIT_HEADER, 1))


async def main(given: Any) -> int:
    """Serve or ask, as the command line says."""
    base = f"{os.environ['FORGE_URL'].rstrip('/')}/api/v1/db/{given.document}/streams/"
    headers = {"Authorization": f"Bearer {os.environ['FORGE_TOKEN']}"}
    async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=httpx2.Timeout(None, connect=10)) as http:
        if given.do == "run":
            return await ask(http, given.words)
        patterns = [shlex.split(pattern) for pattern in given.words]
        await asyncio.gather(*(serve(http, patterns) for _ in range(AT_ONCE)))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--document", default="home", help="whose streams are used")
    parser.add_argument("do", choices=("serve", "run"))
    parser.add_argument("words", nargs=argparse.REMAINDER, help="serve: commands that are allowed; run: one of them")
    if not all(os.environ.get(name) for name in ("FORGE_URL", "FORGE_TOKEN")):
        parser.error("FORGE_URL and FORGE_TOKEN must say where the node is, and who you are")
    try:
        sys.exit(asyncio.run(main(parser.parse_args())))
    except (NotServed, httpx2.TransportError) as failed:
        sys.exit(f"remote_shell.py: {failed}")
