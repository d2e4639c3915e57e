"""`forge log segment`: print the records of a segment, such as those that a restore has put aside."""

from pathlib import Path

import click

from forge.cli.errors import CliError, ExitCode
from forge.cli.log_failures import log_failures
from forge.cli.options import json_option
from forge.cli.record_lines import emit_record

WHAT = "forge log segment"


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def segment(file: Path) -> None:
    """Print the events of the segment FILE, checked: of the folder `aside`, or of an archive that is not encrypted."""
    from events.segment import open_segment
    from schemas.ids import InvalidId, PartitionId
    from schemas.segment import InvalidSegment, decode

    raw = file.read_bytes()
    try:
        partition = PartitionId.parse(decode(raw)[0].partition)
    except (InvalidSegment, InvalidId) as error:
        fix = "give a file whose name ends with .seg"
        raise CliError(WHAT, f"{file}: {error}", fix, "docs/restore.md", ExitCode.DATA_FAULT) from error
    with log_failures(WHAT):
        for entry in open_segment(raw, partition).entries:
            emit_record(entry)
