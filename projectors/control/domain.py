"""The control domain as the commit loop takes it: one partition, one projection."""

from pathlib import Path

from projectors.control.commands import decide
from projectors.control.fold import FOLD_VERSION, apply
from projectors.domain import Domain, ProjectionSpec
from projectors.projection import schema_sql, schema_version
from schemas.control import COMMANDS, FACTS
from schemas.ids import PartitionId

PARTITION = PartitionId("control")


def control_domain(control_db: Path) -> Domain:
    """Return the domain with its projection at `control_db`."""
    schema = schema_sql("control")
    spec = ProjectionSpec("control", control_db, schema, apply, schema_version(schema, FOLD_VERSION))
    return Domain("control", FACTS, COMMANDS, lambda _: (spec,), decide)
