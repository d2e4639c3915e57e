"""`forge db`: documents, which are SQLite databases with a history."""

import click

from forge.cli import db_registry
from forge.cli.db_history import changes, log
from forge.cli.db_sql import batch, sql, watch
from forge.cli.messages import retention


@click.group()
def db() -> None:
    """Make documents, run SQL in them, watch them, read their past."""


for command in (
    db_registry.create,
    db_registry.list_,
    db_registry.show,
    sql,
    batch,
    watch,
    changes,
    log,
    retention,
    db_registry.rename,
    db_registry.clone,
    db_registry.archive,
    db_registry.unarchive,
    db_registry.delete,
    db_registry.undelete,
):
    db.add_command(command)
