"""Shows on a terminal which partitions are on their way, and how far each is."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from forge.restore.bring_up import Started
from projectors.catch_up import Progress
from schemas.ids import PartitionId, Position


@contextmanager
def shown() -> Iterator[Started]:
    """Show it while the context lasts; nothing where nobody looks."""
    if not sys.stderr.isatty():
        yield lambda *_: lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:

        def started(partition: PartitionId, end: Position) -> Progress:
            task = bar.add_task(str(partition), total=end.index, visible=False)

            def reached(position: Position) -> None:
                done = position.index >= end.index
                bar.update(task, completed=position.index, visible=not done)

            return reached

        yield started
