"""The document domain as the commit loop takes it: one partition and one file per document."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from projectors.document.decide import Decider
from projectors.document.quick_writes import QuickWrites
from projectors.document.replay import FOLD_VERSION, apply
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.sandbox import configure_writer
from projectors.document.system import Migration
from projectors.document.system_tables import MIGRATIONS
from projectors.domain import Domain, ProjectionSpec
from projectors.projection import schema_sql, schema_version
from schemas.document_domain import COMMANDS, FACTS
from schemas.ids import PartitionId, escape

DOMAIN = "doc"


def document_domain(docs_dir: Path, bounds: SqlBounds, migrations: Sequence[Migration] = MIGRATIONS) -> Domain:
    """Return the domain of the documents whose files lie in `docs_dir`."""
    quick = QuickWrites(Decider(bounds, migrations))
    return Domain(
        DOMAIN,
        FACTS,
        COMMANDS,
        lambda db_id: (document_spec(db_id, document_path(docs_dir, db_id), bounds),),
        quick.decide_in_thread,
        quick,
    )


def document_spec(db_id: str, path: Path, bounds: SqlBounds) -> ProjectionSpec:
    """Return how the document `db_id` is folded into the file at `path`."""
    schema = schema_sql("document")
    return ProjectionSpec(
        f"doc/{db_id}",
        path,
        schema,
        apply,
        schema_version(schema, FOLD_VERSION),
        partial(configure_writer, bounds=bounds),
    )


def document_partition(db_id: str) -> PartitionId:
    """Return the history of a document."""
    return PartitionId(DOMAIN, db_id)


def document_path(docs_dir: Path, db_id: str) -> Path:
    """Return where the file of a document lies."""
    return docs_dir / f"{escape(db_id)}.db"
