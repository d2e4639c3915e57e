"""The commands of `forge snapshot` that only look: history, diff, inspect, query."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.flags import OneDashCommand
from forge.cli.options import data_dir_option, invocation, json_option
from forge.cli.output import emit, size_text, table
from forge.cli.snapshot_desk import MORE, absolute, at_desk, row_at, shown_time

if TYPE_CHECKING:
    import apsw

    from forge.snapshot.desk import Desk
    from projectors.node.tree_difference import Change
    from schemas.node import TreeEntry

FOLDER = click.Path(path_type=str)
KINDS = ("file", "symlink", "tree", "special", "all")


@click.command(cls=OneDashCommand)
@click.argument("path", type=FOLDER, default=".")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="Snapshots at most.")
@data_dir_option
@json_option
def history(path: str, limit: int) -> None:
    """List the snapshots of the folder PATH, the newest first."""

    async def run(desk: "Desk") -> list[dict[str, Any]]:
        from projectors.node.queries import snapshots
        from schemas.os_text import shown

        with desk.snapshots() as db:
            return [row._asdict() | {"path": shown(row.path)} for row in snapshots(db, absolute(path), limit)]

    found = at_desk(f"the history of {path}", run)
    rows = [(shown_time(one["taken_at_ns"]), one["taken_at_ns"], one["target_hash"]) for one in found]
    emit(found, table(("TAKEN", "TIME", "TREE"), rows) if rows else "no snapshots", as_json=invocation().json)


@click.command(cls=OneDashCommand)
@click.argument("path", type=FOLDER, default=".")
@click.option("--from", "from_ns", type=int, metavar="NS", help="Time of the one snapshot.")
@click.option("--to", "to_ns", type=int, metavar="NS", help="Time of the other; without both, the newest two.")
@data_dir_option
@json_option
def diff(path: str, from_ns: int | None, to_ns: int | None) -> None:
    """Say what differs between two snapshots of the folder PATH, the earlier one first.

    A is an added path, D a deleted one, M a modified one, and T one of another kind; tags follow with + and -.
    """
    if (from_ns is None) != (to_ns is None):
        raise click.UsageError("give both --from and --to, or none of them")

    async def run(desk: "Desk") -> dict[str, Any]:
        from projectors.node.queries import snapshots
        from projectors.node.tree_difference import changes

        with desk.snapshots() as db:
            if from_ns is None:
                pair = snapshots(db, absolute(path), 2)
            else:
                pair = [row_at(db, absolute(path), from_ns), row_at(db, absolute(path), to_ns)]
            if len(pair) < 2:
                why = f"there are {len(pair)} snapshots of it, and two are needed"
                raise CliError(f"comparing {path}", why, "take another one", MORE, ExitCode.NOT_FOUND)
            before, after = sorted(pair, key=lambda row: row.taken_at_ns)
            found = [_change(change) for change in changes(db, before.target_hash, after.target_hash)]
        return {"from": before.taken_at_ns, "to": after.taken_at_ns, "changes": found}

    found = at_desk(f"comparing {path}", run)
    lines = [
        " ".join([f"{one['code']}  {one['path']}", *(f"+{tag}" for tag in one["tags"]["added"])])
        + "".join(f" -{tag}" for tag in one["tags"]["removed"])
        for one in found["changes"]
    ]
    emit(found, "\n".join(lines) or "no difference", as_json=invocation().json)


@click.command(cls=OneDashCommand)
@click.option("--tree", required=True, metavar="HASH", help="The tree, as `history` and `inspect` show it.")
@click.option("--recursive", is_flag=True, help="With everything below it.")
@data_dir_option
@json_option
def inspect(tree: str, recursive: bool) -> None:
    """List the entries of a tree."""
    found = at_desk(f"tree {tree}", lambda desk: _listed(desk, tree, recursive=recursive))
    emit({"tree": tree, "entry_count": len(found), "entries": found}, _entries(found), as_json=invocation().json)


@click.command(cls=OneDashCommand)
@click.option("--tree", required=True, metavar="HASH", help="The tree, as `history` and `inspect` show it.")
@click.option("--tags", required=True, metavar="TAGS", help="Tags that an entry must have, separated by commas.")
@click.option("--kind", type=click.Choice(KINDS), default="file", show_default=True, help="Entries of which kind.")
@data_dir_option
@json_option
def query(tree: str, tags: str, kind: str) -> None:
    """List what has all these tags in a tree, with everything below it."""
    from forge.snapshot.reading import parse_tags

    if not (wanted := set(parse_tags(tags))):
        raise click.UsageError("--tags needs at least one tag")
    every = at_desk(f"tree {tree}", lambda desk: _listed(desk, tree, recursive=True))
    found = [one for one in every if wanted <= set(one["tags"]) and kind in ("all", one["kind"])]
    said = {"tree": tree, "tags": sorted(wanted), "kind": kind, "match_count": len(found), "matches": found}
    emit(said, _entries(found), as_json=invocation().json)


async def _listed(desk: "Desk", tree: str, *, recursive: bool) -> list[dict[str, Any]]:
    with desk.snapshots() as db:
        return [_entry(path, entry) for path, entry in _walk(db, tree, recursive=recursive)]


def _walk(db: "apsw.Connection", tree: str, *, recursive: bool) -> "Iterator[tuple[bytes, TreeEntry]]":
    """Yield the entries of a tree, and of those below if that is wanted, in order of paths."""
    from projectors.node import queries

    if queries.tree(db, tree) is None:
        fix = "`forge snapshot history` shows the trees of snapshots"
        raise CliError(f"tree {tree}", "there is no such tree", fix, MORE, ExitCode.NOT_FOUND)
    pending = [(entry.name, entry) for entry in reversed(list(queries.entries(db, tree)))]
    while pending:
        path, entry = pending.pop()
        yield path, entry
        if recursive and entry.kind == "tree":
            below = reversed(list(queries.entries(db, entry.target)))
            pending += [(path + b"/" + one.name, one) for one in below]


def _entry(path: bytes, entry: "TreeEntry") -> dict[str, Any]:
    from projectors.node.file_mode import mode_text
    from schemas.os_text import shown

    return {
        "path": shown(path),
        "kind": entry.kind,
        "hash": entry.target,
        "mode": mode_text(entry.mode),
        "mtime_ns": entry.mtime_ns,
        "size": entry.size,
        "link": shown(entry.link),
        "tags": list(entry.tags),
    }


def _change(change: "Change") -> dict[str, Any]:
    from schemas.os_text import shown

    tags = {"added": list(change.tags_added), "removed": list(change.tags_removed)}
    return {"code": change.code, "path": shown(change.path), "kind": change.kind, "tags": tags}


def _entries(found: list[dict[str, Any]]) -> str:
    rows = [
        (one["mode"], size_text(one["size"]), one["hash"][:16], one["path"], ",".join(one["tags"])) for one in found
    ]
    return table(("MODE", "SIZE", "HASH", "PATH", "TAGS"), rows) if rows else "nothing"
