"""`forge snapshot`: what folders of this machine looked like."""

import asyncio
import os
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import OneDashCommand
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, size_text
from forge.cli.snapshot_desk import MORE, absolute, at_desk, row_at, shown_time
from forge.cli.snapshot_views import FOLDER, diff, history, inspect, query

if TYPE_CHECKING:
    from forge.snapshot.desk import Desk


@click.group(invoke_without_command=True)
@click.pass_context
def snapshot(context: click.Context) -> None:
    """Remember what folders look like, and bring them back; without a command, the present folder."""
    if context.invoked_subcommand is None:
        context.exit(context.invoke(create))


@snapshot.command(cls=OneDashCommand)
@click.argument("path", type=FOLDER, default=".")
@click.option("--strict", is_flag=True, help="Fail, and record nothing, if anything cannot be read.")
@click.option("--basic-tree", is_flag=True, help="Without modes, times and tags.")
@click.option("--keep", is_flag=True, help="Keep the bytes of all files too, so that they can be restored.")
@data_dir_option
@json_option
def create(path: str, strict: bool, basic_tree: bool, keep: bool) -> int:
    """Take a snapshot of the folder PATH with all below it (default: the present folder).

    What cannot be read is left out with a warning, and the exit code is 2. Hashes of files are kept with them, in
    extended attributes, so that only what has changed is read the next time.
    """
    from forge.snapshot.create import Plan
    from forge.snapshot.create import create as take

    plan = Plan(absolute(path), os.cpu_count() or 1, strict, basic_tree, keep)
    taken = at_desk("taking a snapshot", lambda desk: take(desk, plan))
    emit(taken, _told(taken), as_json=invocation().json)
    for sample in taken["samples"]:
        click.echo(f"warning: left out: {sample}", err=True)
    if more := taken["warnings"] - len(taken["samples"]):
        click.echo(f"warning: left out: {more} more", err=True)
    return ExitCode.WARNINGS if taken["warnings"] else ExitCode.OK


@snapshot.command(cls=OneDashCommand)
@click.argument("path", type=FOLDER)
@click.option("--to", metavar="FOLDER", help="Where to; PATH itself by default. It must be empty, or not there.")
@click.option("--time", "time_ns", type=int, metavar="NS", help="Which snapshot, by its time; the newest by default.")
@data_dir_option
@json_option
def restore(path: str, to: str | None, time_ns: int | None) -> None:
    """Bring the folder PATH back as a snapshot has it.

    Bytes of files come from the payloads of this machine, where `create --keep` or an upload has put them, else from
    its archive. Files without any are listed, everything else is restored, and the exit code is 1.
    """
    target = absolute(to or path)

    async def run(desk: "Desk") -> dict[str, Any]:
        from dataclasses import asdict

        from forge.snapshot.payloads import opened_payloads
        from forge.snapshot.restore import restore as bring_back
        from schemas.os_text import shown

        with desk.snapshots() as db:
            row = row_at(db, absolute(path), time_ns)
            async with opened_payloads(desk, db, row.target_hash) as store:
                done = await asyncio.to_thread(bring_back, db, row.target_hash, store, target)
        return {"target": shown(target), "taken_at_ns": row.taken_at_ns, "hash": row.target_hash, **asdict(done)}

    done = at_desk(f"restoring {path}", run)
    text = (
        f"{done['target']} is as it was at {shown_time(done['taken_at_ns'])}: {done['folders']} folders, "
        f"{done['files']} files, {size_text(done['file_bytes'])}, {done['symlinks']} symbolic links"
    )
    emit(done, text, as_json=invocation().json)
    for line in done["passed_over"]:
        click.echo(f"warning: {line}", err=True)
    for line in done["missing"]:
        click.echo(f"no bytes: {line}", err=True)
    if done["missing_count"]:
        why = f"{done['missing_count']} files have no bytes here: they were taken without --keep, or are damaged"
        fix = "bring them from elsewhere; take snapshots with --keep from now on"
        raise CliError(f"restoring {path}", why, fix, MORE)


for command in (history, diff, inspect, query):
    snapshot.add_command(command)


def _told(taken: dict[str, Any]) -> str:
    hashed = taken["files"] - taken["cached"]
    return "\n".join(
        [
            f"{taken['path']} at {shown_time(taken['taken_at_ns'])}",
            f"tree {taken['hash']}",
            f"v2   {taken['hash_v2']}",
            f"{taken['trees']} folders ({taken['recorded']} new), {taken['files']} files "
            f"({size_text(taken['file_bytes'])}, {hashed} read), {taken['symlinks']} symbolic links, "
            f"{taken['specials']} others" + (", bytes kept" if taken["kept"] else ""),
        ]
    )
