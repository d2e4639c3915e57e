"""`forge healthcheck`: whether a node answers, as an exit code for supervisors and containers."""

from urllib.parse import urlsplit

import click

from forge.cli.errors import SILENT_FIX, CliError, ExitCode
from forge.cli.node_call import node_address
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit

TIMEOUT_S = 5.0
PATH = "/healthz"
OK = 200


@click.command()
@node_options
@json_option
def healthcheck() -> None:
    """Ask whether a node answers; ends with 0 if it does, else with 6.

    --url may also be a whole address to ask, such as http://127.0.0.1:8080/readyz.
    """
    url = _asked(node_address(invocation().settings())[0])
    status = _status(url)
    if status != OK:
        raise CliError(
            f"asking {url}", f"it answers {status}", "see why in its log", "forge doctor", ExitCode.NOT_READY
        )
    emit({"url": url, "status": status}, "OK!", as_json=invocation().json)


def _asked(url: str) -> str:
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH


def _status(url: str) -> int:
    import httpx2

    try:
        return httpx2.get(url, timeout=TIMEOUT_S, trust_env=False).status_code
    except (httpx2.TransportError, httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        reason, fix = str(error) or type(error).__name__, "start a node: forge up"
        if isinstance(error, httpx2.ReadTimeout):
            reason, fix = f"it took the request, and nothing came from it for {TIMEOUT_S:g} s", SILENT_FIX
        raise CliError(f"asking {url}", reason, fix, "forge doctor", ExitCode.NOT_READY) from error
