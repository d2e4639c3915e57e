"""`forge doctor`: one line per check, with the value seen, the limit, and what to do."""

from collections.abc import Iterator
from dataclasses import asdict

import click
import httpx2

from forge import local_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import emit, table
from forge.datadir import read_runtime
from forge.doctor.check import Check, State, exit_code
from forge.doctor.machine import machine_checks
from forge.doctor.node import TIMEOUT_S, lag_checks, ready_checks, sync_check, worker_check, worker_urls
from schemas.settings import Settings

KINDS = ("text", "image")


@click.command()
@node_options
@json_option
def doctor() -> int:
    """Check this machine and the node on it.

    Works without a node too. Ends with 0 if nothing failed, 7 if data is at risk, else 6; warnings do not count.
    """
    given = invocation()
    checks = list(all_checks(given.settings()))
    rows = [(check.state, check.name, check.value, check.limit, check.fix) for check in checks]
    code = exit_code(checks)
    value = {"ok": code == 0, "checks": [asdict(check) for check in checks]}
    emit(value, table(("STATE", "CHECK", "VALUE", "LIMIT", "FIX"), rows), as_json=given.json)
    return code


def all_checks(settings: Settings) -> Iterator[Check]:
    """Yield every check in the order it is shown; a node that was named must answer, a local one may be off."""
    yield from machine_checks(
        settings.data_dir,
        settings.cache_dir,
        log_bytes_max=settings.log_bytes_max,
        connections_max=settings.connections_max,
        partitions_max=settings.partitions_open_max,
    )
    running = read_runtime(settings.data_dir)
    url, token = local_node.target(settings.data_dir, settings.url, settings.token.get_secret_value())
    # Neither proxies of the environment nor redirects have a part in asking one's own servers.
    with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as http:
        monitor_url = settings.nats_monitor_url or (running.monitor_url if running else "")
        yield sync_check(monitor_url, http=http)
        if running and not url:
            yield Check("node", State.OFF, "forge replicate daemon runs, which is none", "-", "forge replicate status")
        else:
            yield from ready_checks(url, http=http)
        if url:
            yield from lag_checks(url, token, http=http)
        used = worker_urls(url, token, http=http) if url else {}
        for kind in KINDS:
            yield worker_check(kind, settings.worker_url(kind) or used.get(kind, ""), http=http)
