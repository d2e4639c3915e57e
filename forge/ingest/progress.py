"""What a run shows: a bar on a terminal while it lasts, then totals; or one JSON document."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import click

from forge.ingest.run import Event, Ingest, Plan, Sent
from forge.ingest.scan import Failed, Skipped
from forge.ingest.tally import Tally

REFRESH_S = 0.2
BAR_COLUMNS = 8  # leaves room for the counts in 80 columns


class Report(Protocol):
    """Where the outcomes of a run go."""

    def file(self, event: Event) -> None:
        """Take the outcome of one file."""
        ...

    def showing(self, ingest: Ingest) -> Any:
        """Return a context in which progress is shown."""
        ...

    def totals(self, tally: Tally, elapsed_s: float) -> None:
        """Print the totals of a complete run."""
        ...


def report_for(plan: Plan, url: str, local_copy: Mapping[str, Any] | None, *, as_json: bool, verbose: bool) -> Report:
    """Return the report that fits what was asked for and where it goes; `local_copy` is what JSON says of it."""
    return JsonReport(plan, url, local_copy) if as_json else TextReport(plan, url, verbose=verbose)


class TextReport:
    """Lines for people; failures always, other files if `verbose`."""

    def __init__(self, plan: Plan, url: str, *, verbose: bool) -> None:
        self._plan = plan
        self._url = url
        self._verbose = verbose

    def file(self, event: Event) -> None:
        """Print a line if it is wanted."""
        if isinstance(event, Failed) or self._verbose:
            outcome, reason = _outcome(event)
            path = _printable(click.format_filename(event.path))
            click.echo(f"{outcome}: {path}" + (f": {reason}" if reason else ""), err=isinstance(event, Failed))

    @contextmanager
    def showing(self, ingest: Ingest) -> Iterator[None]:
        """Show a bar on standard error if that is a terminal."""
        if not sys.stderr.isatty():
            yield
            return
        with _bar(ingest):
            yield

    def totals(self, tally: Tally, elapsed_s: float) -> None:
        """Print the totals."""
        where = _printable(click.format_filename(self._plan.root))
        what = "Dry run, nothing sent" if self._plan.dry_run else "Ingested"
        click.echo(f"{what}: {where} as {self._plan.kind} to {self._url} in {elapsed_s:.1f} s")
        for line in tally.lines():
            click.echo(f"  {line}")


class JsonReport:
    """One JSON object on standard output, written while it grows: `files`, then the counts.

    `complete` is false when the run was stopped; the document is well-formed then, too.
    """

    def __init__(self, plan: Plan, url: str, local_copy: Mapping[str, Any] | None) -> None:
        self._head = {
            "root": os.fsdecode(plan.root),
            "kind": plan.kind,
            "server": url,
            "dry_run": plan.dry_run,
            "local_copy": local_copy,
        }
        self._first = True

    def file(self, event: Event) -> None:
        """Write one element of `files`."""
        outcome, reason = _outcome(event)
        entry = {"path": os.fsdecode(event.path), "outcome": outcome}
        click.echo(
            ("" if self._first else ",\n") + json.dumps(entry | ({"reason": reason} if reason else {})), nl=False
        )
        self._first = False

    @contextmanager
    def showing(self, ingest: Ingest) -> Iterator[None]:
        """Write the frame of the document."""
        click.echo(json.dumps(self._head)[:-1] + ', "files": [')
        complete = False
        try:
            yield
            complete = True
        finally:
            counts = json.dumps(ingest.tally.as_json() | {"complete": complete})
            click.echo(f"], {counts[1:]}")

    def totals(self, tally: Tally, elapsed_s: float) -> None:
        """Print nothing: they are in the document."""


def _outcome(event: Event) -> tuple[str, str]:
    match event:
        case Skipped(_, reason):
            return "skipped", reason
        case Failed(_, reason):
            return "failed", reason
        case Sent(dry_run=True):
            return "would upload", ""
        case Sent():
            return "uploaded", ""


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@contextmanager
def _bar(ingest: Ingest) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(bar_width=BAR_COLUMNS), TextColumn("{task.description}"), TimeElapsedColumn())
    stop = threading.Event()
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5) as progress:
        task = progress.add_task("", total=None)

        def show() -> None:
            while not stop.wait(REFRESH_S):
                tally = ingest.tally
                total = tally.seen if ingest.scanned else None
                progress.update(task, description=_counts(tally), completed=tally.settled, total=total)

        shower = threading.Thread(target=show, name="progress", daemon=True)
        shower.start()
        try:
            yield
        finally:
            stop.set()
            shower.join()


def _counts(tally: Tally) -> str:
    counts = {
        "seen": tally.seen,
        "cached": tally.cached_hash,
        "present": tally.present + tally.present_locally,
        "uploaded": tally.uploaded,
        "skipped": tally.skipped.total(),
    }
    failed = {"failed": failed} if (failed := tally.failed.total()) else {}
    return "  ".join(f"{what} {count:,}" for what, count in (counts | failed).items())
