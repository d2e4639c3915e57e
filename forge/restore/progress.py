"""Shows how far a restore is: bars on a terminal, and elsewhere a line from time to time."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from forge.restore.bring_up import Counted, Watch
from projectors.catch_up import Progress
from schemas.ids import PartitionId, Position

EVERY_S = 5.0


@contextmanager
def shown() -> Iterator[Watch]:
    """Show it on stderr while the context lasts."""
    if not sys.stderr.isatty():
        yield Watch(counted=_lines())
        return
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

    with Bar(console=Console(stderr=True), transient=True) as bar:
        everything = bar.add_task("partitions", visible=False)

        def counted(done: int, total: int) -> None:
            bar.update(everything, completed=done, total=total, visible=total > 1)

        def started(partition: PartitionId, end: Position) -> Progress:
            tasks: list[TaskID] = []

            def reached(position: Position) -> None:
                if position.index < end.index and not tasks:  # most are done at once: no bar for them
                    tasks.append(bar.add_task(str(partition), total=end.index))
                for task in tasks:
                    bar.update(task, completed=position.index, visible=position.index < end.index)

            return reached

        yield Watch(started, counted)


def _lines() -> Counted:
    """Return what prints a line when some seconds have passed since the last one."""
    told_at = time.monotonic()

    def counted(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= EVERY_S:
            told_at = time.monotonic()
            sys.stderr.write(f"{done} of {total} partitions\n")

    return counted
