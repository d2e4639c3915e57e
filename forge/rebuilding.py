"""Rebuild or verify every projection of a node, one after the other, with a progress bar."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from events.append import last_message
from events.log import Log
from forge.cli.errors import CliError, ExitCode
from forge.domains import domains
from projectors.catch_up import Progress
from projectors.domain import Domain, ProjectionSpec
from projectors.rebuild import digest_of, rebuild
from projectors.rebuild import verify as verify_one
from projectors.threads import Threads
from projectors.vector.domain import PARTITION
from schemas.ids import START, PartitionId, Position
from schemas.settings import Settings


async def rebuild_all(
    event_log: Log, threads: Threads, settings: Settings, names: Sequence[str], *, verify: bool
) -> list[dict[str, Any]]:
    """Rebuild the projections called `names` (none: all), or only compare them; return one result each."""
    results = []
    for domain, partition, specs in _chosen(settings, names):
        last = await last_message(event_log.reader, partition)
        end = Position.parse(last.headers["Forge-Position"]) if last else START
        if not verify:
            with _progress_bar(f"{partition}", end) as progress:
                await rebuild(event_log.reader, threads, domain, partition, specs, progress=progress)
            for spec in specs:
                results.append(_result(spec.name, end, await threads.run(digest_of, spec.path), "rebuilt", None))
            continue
        for spec in specs:
            if not spec.path.exists():
                results.append(_result(spec.name, START, "", "absent", None))
                continue
            with _progress_bar(spec.name, end) as progress:
                verdict = await verify_one(event_log.reader, threads, domain, partition, spec, progress=progress)
            word = "equal" if verdict.equal else "different"
            results.append(_result(spec.name, verdict.position, verdict.digest, word, verdict.difference))
    return results


def _chosen(settings: Settings, names: Sequence[str]) -> list[tuple[Domain, PartitionId, list[ProjectionSpec]]]:
    """Return the partitions with those of their projections that are called `names` (none: all)."""
    domain = domains(settings)[PARTITION.domain]
    known = list(domain.projections(PARTITION.key))
    if unknown := set(names) - {spec.name for spec in known}:
        raise CliError(
            "forge rebuild",
            f"there is no projection {', '.join(sorted(unknown))}",
            f"choose from: {', '.join(spec.name for spec in known)}",
            "forge rebuild --help",
            ExitCode.NOT_FOUND,
        )
    return [(domain, PARTITION, [spec for spec in known if not names or spec.name in names])]


def _result(name: str, position: Position, digest: str, word: str, difference: str | None) -> dict[str, Any]:
    return {
        "projection": name,
        "position": str(position),
        "digest": digest,
        "result": word,
        "difference": difference,
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
