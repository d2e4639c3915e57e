"""`forge status`: what a running node is doing."""

from typing import Any

import click

from forge.cli.node_call import ask_node
from forge.cli.options import invocation, json_option, node_options
from forge.cli.output import duration_text, emit, table

BREAKERS = {
    "closed": "can be reached",
    "open": "cannot be reached, tried again in a while",
    "half-open": "could not be reached, one job tries it now",
}


@click.command()
@node_options
@json_option
def status() -> None:
    """Show what a running node is doing."""
    state = ask_node(lambda client: client.status())
    emit(state, _text(state), as_json=invocation().json)


def _text(state: dict[str, Any]) -> str:
    jobs = ", ".join(f"{count} {name}" for name, count in state["jobs"].items())
    lines = [
        f"node      {state['node']}, version {state['version']}, up {duration_text(state['uptime_s'])}",
        f"data      {state['data_dir']}",
        f"jobs      {jobs}",
    ]
    if writer := state.get("writer"):
        lines.append(f"writes    {_writes(writer)}")
    for url, breaker in state["workers"].get("breakers", {}).items():
        lines.append(f"worker    {url} {BREAKERS.get(breaker, breaker)}")
    rows = [
        (
            p["name"],
            p["position"] or "-",
            p["log_position"] or "-",
            "-" if p["lag_records"] is None else p["lag_records"],
        )
        for p in state["projections"]
    ]
    lines += ["", table(("PROJECTION", "POSITION", "LOG", "LAG"), rows)]
    stopped = [p for p in state["partitions"] if p["stopped_because"]]
    lines += [f"stopped   {p['partition']}: {p['stopped_because']}" for p in stopped]
    return "\n".join(lines)


def _writes(writer: dict[str, Any]) -> str:
    """Return whether the node writes to its object store, as one line."""
    said = f"no: {writer['why_not']}" if writer["why_not"] else f"yes, epoch {writer['epoch']}, lease {writer['mode']}"
    if (behind_s := writer.get("behind_s")) is not None:
        said += f", {duration_text(behind_s)} behind"
    return f"{said}; {writer['trouble']}" if writer["trouble"] else said
