"""`forge rebuild`: fold the log again, into fresh databases or to prove the present ones."""

from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode, stopped_by_hand
from forge.cli.log import with_log
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, table
from projectors.threads import Threads

if TYPE_CHECKING:  # the log's libraries take longer to import than `forge --help` may take
    from forge.log_access import LogAccess


@click.command()
@click.argument("names", nargs=-1)
@click.option("--verify", is_flag=True, help="Change nothing; compare, and fail on a difference.")
@data_dir_option
@json_option
def rebuild(names: tuple[str, ...], verify: bool) -> None:
    """Fold the log into fresh databases that take the place of the present ones.

    NAMES are projections such as vector/queue (default: all). Stop the node first; --verify runs beside it.
    """

    async def run(access: "LogAccess") -> list[dict[str, Any]]:
        from forge.rebuilding import rebuild_all

        with Threads(2) as threads:
            return await rebuild_all(access, threads, invocation().settings(), names, verify=verify)

    fix = "run it again; each database is whole: the present one, or the one that was made in its place"
    with stopped_by_hand("forge rebuild", fix, "docs/operations.md"):
        results = with_log(run, exclusive=not verify)
    rows = [(r["projection"], r["position"], r["digest"][:16], _said(r)) for r in results]
    emit(results, table(("PROJECTION", "POSITION", "DIGEST", "RESULT"), rows), as_json=invocation().json)
    if bad := [r for r in results if r["difference"]]:
        raise CliError(
            "forge rebuild --verify",
            f"{bad[0]['projection']} differs from its log: {bad[0]['difference']}",
            f"stop the node and run `forge rebuild {bad[0]['projection']}`",
            "docs/operations.md",
            ExitCode.DATA_FAULT,
        )


def _said(result: dict[str, Any]) -> str:
    """Say what became of a projection, and since when, where the beginning of its history is not kept any more."""
    return f"{result['result']} since {result['since']}" if result["since"] else str(result["result"])
