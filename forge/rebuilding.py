"""Rebuild or verify every projection of a node, one after the other, with a progress bar."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from events.append import last_message
from events.log import Log
from forge.cli.errors import CliError, ExitCode
from forge.node import domains
from projectors.catch_up import Progress
from projectors.domain import Domain, ProjectionSpec
from projectors.rebuild import rebuild
from projectors.rebuild import verify as verify_one
from projectors.vector.domain import PARTITION
from schemas.ids import PartitionId, Position
from schemas.settings import Settings


async def rebuild_all(
    event_log: Log, executor: Executor, settings: Settings, names: Sequence[str], *, verify: bool
) -> list[dict[str, Any]]:
    """Rebuild the projections called `names` (none: all), or only compare them; return one result each."""
    results = []
    for domain, partition, spec in _chosen(settings, names):
        last = await last_message(event_log.reader, partition)
        end = Position.parse(last.headers["Forge-Position"]) if last else Position(1, 0)
        with _progress_bar(spec.name, end) as progress:
            if not verify:
                digest = await rebuild(event_log.reader, executor, domain, partition, spec, progress=progress)
                results.append(_result(spec.name, end, digest, "rebuilt", None))
            elif not spec.path.exists():
                results.append(_result(spec.name, Position(1, 0), "", "absent", None))
            else:
                verdict = await verify_one(event_log.reader, executor, domain, partition, spec, progress=progress)
                word = "equal" if verdict.equal else "different"
                results.append(_result(spec.name, verdict.position, verdict.digest, word, verdict.difference))
    return results


def _chosen(settings: Settings, names: Sequence[str]) -> list[tuple[Domain, PartitionId, ProjectionSpec]]:
    domain = domains(settings)[PARTITION.domain]
    known = [(domain, PARTITION, spec) for spec in domain.projections(PARTITION.key)]
    if unknown := set(names) - {spec.name for _, _, spec in known}:
        all_names = ", ".join(spec.name for _, _, spec in known)
        raise CliError(
            "forge rebuild",
            f"there is no projection {', '.join(sorted(unknown))}",
            f"choose from: {all_names}",
            "forge rebuild --help",
            ExitCode.NOT_FOUND,
        )
    return [one for one in known if not names or one[2].name in names]


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
