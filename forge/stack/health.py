"""What a child says about itself when asked over HTTP."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import httpx2

PROBE_TIMEOUT_S = 2.0
_DETAIL_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Health:
    """The answer to one probe: `ill` is an answer that says so, `silent` is none at all."""

    verdict: Literal["well", "ill", "silent"]
    detail: str = ""


Probe = Callable[[], Awaitable[Health]]


async def http_health(url: str) -> Health:
    """Ask `url`: 200 is well, any other status is ill and the body says why."""
    return await http_probe(url, lambda answer: "")


async def http_probe(url: str, problem: Callable[[httpx2.Response], str]) -> Health:
    """Ask `url`; a 200 in which `problem` finds none (an empty string) is well."""
    try:
        # Neither proxies of the environment nor certificates have a part in a loopback probe.
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=PROBE_TIMEOUT_S) as client:
            answer = await client.get(url)
    except httpx2.HTTPError as error:
        return Health("silent", f"no answer from {url} ({type(error).__name__})")
    if answer.status_code != 200:
        return Health("ill", f"{url} says {answer.status_code}: {answer.text.strip()[:_DETAIL_CHARS_MAX]}")
    if found := problem(answer):
        return Health("ill", found)
    return Health("well")
