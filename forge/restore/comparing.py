"""Compare everything with the archive, and know afterwards of which partitions that need not be done again soon."""

from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict

from events.archive import Archive
from events.log import Log
from events.streams import stream_states
from forge.private_file import write_private
from forge.restore.bring_up import NOBODY, Watch, bring_up
from forge.restore.outcome import Outcome, archived_ends
from schemas.archive import Mark
from schemas.ids import PartitionId, Position
from schemas.settings import Settings
from workers.standby.changes import marks
from workers.standby.compared import Compared

FILE = "compared.json"
"""In the data directory: what a restore leaves for the node that starts next."""

log = structlog.get_logger(__name__)


async def compare(
    settings: Settings,
    event_log: Log,
    archive: Archive,
    *,
    before: Compared | None = None,
    alone_aside: bool = False,
    watch: Watch = NOBODY,
) -> tuple[dict[PartitionId, Outcome], Compared]:
    """Do and raise what `bring_up` does; return what became of partitions, and what is known then.

    What was compared `before`, and cannot have changed since, is not compared again. If another writer takes over
    meanwhile, nothing is known.
    """
    now, epoch = await marks(archive), (await archive.epochs.refresh()).epoch
    sure: dict[PartitionId, Position] = {}
    if before is not None and before.epoch == epoch:
        sure = before.sure(now, await stream_states(event_log.reader))
    outcomes = await bring_up(settings, event_log, archive, alone_aside=alone_aside, sure=sure, watch=watch)
    states = await stream_states(event_log.reader)
    if (await archive.epochs.table()).epoch != epoch:
        return outcomes, Compared()
    last = {stream: state.last_sequence for stream, state in states.items()}
    created = {stream: state.created for stream, state in states.items()}
    return outcomes, Compared(now, epoch, sure | archived_ends(outcomes), last, created)


class _Remembered(BaseModel):
    """What was compared, in a file; the ends of partitions by their tokens."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    marks: dict[str, Mark]
    epoch: int
    ends: dict[str, str]
    sequences: dict[str, int]
    created: dict[str, str]


def remember(data_dir: Path, compared: Compared) -> None:
    """Keep what was compared for who starts next. It holds as long as log and archive are as they were, and says so."""
    ends = {partition.token: str(end) for partition, end in compared.ends.items()}
    kept = _Remembered(
        marks=dict(compared.marks),
        epoch=compared.epoch,
        ends=ends,
        sequences=compared.sequences,
        created=dict(compared.created),
    )
    write_private(data_dir / FILE, kept.model_dump_json())


def remembered(data_dir: Path) -> Compared:
    """Return what was kept, and nothing if there is none: then everything is compared."""
    try:
        kept = _Remembered.model_validate_json((data_dir / FILE).read_bytes())
        ends = {PartitionId.of_token(token): Position.parse(end) for token, end in kept.ends.items()}
    except FileNotFoundError:
        return Compared()
    except (OSError, ValueError) as error:
        log.warning("not what a restore has compared", path=str(data_dir / FILE), reason=str(error))
        return Compared()
    return Compared(kept.marks, kept.epoch, ends, kept.sequences, kept.created)


def forget(data_dir: Path) -> None:
    """Remove it: a node that writes does not need it any more."""
    (data_dir / FILE).unlink(missing_ok=True)
