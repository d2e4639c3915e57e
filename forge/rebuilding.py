"""Rebuild or verify every projection of a node, one after the other, with a progress bar."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from events.append import last_message
from forge.cli.errors import CliError, ExitCode
from forge.domains import domains, partitions_here
from forge.log_access import LogAccess
from projectors.catch_up import Progress
from projectors.domain import Domain, ProjectionSpec
from projectors.rebuild import digest_of, rebuild
from projectors.rebuild import verify as verify_one
from projectors.threads import Threads
from schemas.ids import START, PartitionId, Position
from schemas.settings import Settings

NAMES_SHOWN_MAX = 10


async def rebuild_all(
    access: LogAccess, threads: Threads, settings: Settings, names: Sequence[str], *, verify: bool
) -> list[dict[str, Any]]:
    """Rebuild the projections called `names` (none: all), or only compare them; return one result each."""
    event_log = access.log
    results = []
    for domain, partition, specs in _chosen(settings, await access.partitions(), names):
        last = await last_message(event_log.reader, partition)
        end = Position.parse(last.headers["Forge-Position"]) if last else START
        if not verify:
            with _progress_bar(f"{partition}", end) as progress:
                begun = await rebuild(event_log.reader, threads, domain, partition, specs, progress=progress)
            for spec, since in zip(specs, begun, strict=True):
                digest = await threads.run(digest_of, spec.path)
                results.append(_result(spec.name, end, digest, "rebuilt", None, since))
            continue
        for spec in specs:
            if not spec.path.exists():
                results.append(_result(spec.name, START, "", "absent", None))
                continue
            with _progress_bar(spec.name, end) as progress:
                verdict = await verify_one(event_log.reader, threads, domain, partition, spec, progress=progress)
            word = "equal" if verdict.equal else "different"
            results.append(
                _result(spec.name, verdict.position, verdict.digest, word, verdict.difference, verdict.begun)
            )
    return results


def _chosen(
    settings: Settings, in_log: Sequence[PartitionId], names: Sequence[str]
) -> list[tuple[Domain, PartitionId, list[ProjectionSpec]]]:
    """Return the partitions, here or in the log, with their projections that are called `names` (none: all)."""
    known = domains(settings)
    partitions = dict.fromkeys((*partitions_here(settings), *in_log))
    found = [
        (known[partition.domain], partition, list(known[partition.domain].projections(partition.key)))
        for partition in partitions
        if partition.domain in known
    ]
    every = [spec.name for _, _, specs in found for spec in specs]
    if unknown := set(names) - set(every):
        raise CliError(
            "forge rebuild",
            f"there is no projection {', '.join(sorted(unknown))}",
            f"choose from: {', '.join(every[:NAMES_SHOWN_MAX])}{' ...' if len(every) > NAMES_SHOWN_MAX else ''}",
            "forge rebuild --help",
            ExitCode.NOT_FOUND,
        )
    wanted = [
        (domain, partition, [s for s in specs if not names or s.name in names]) for domain, partition, specs in found
    ]
    return [one for one in wanted if one[2]]


def _result(
    name: str, position: Position, digest: str, word: str, difference: str | None, since: Position | None = None
) -> dict[str, Any]:
    return {
        "projection": name,
        "position": str(position),
        "digest": digest,
        "result": word,
        "difference": difference,
        "since": str(since) if since else None,
    }


@contextmanager
def _progress_bar(name: str, end: Position) -> Iterator[Progress]:
    """Show how far the fold is, on a terminal only."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=end.index)
        yield lambda position: bar.update(task, completed=position.index)
