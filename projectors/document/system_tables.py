"""How the system tables of documents came to be: one migration after the other."""

from typing import Final

from projectors.document.system import Migration
from projectors.projection import schema_sql


def _statements(name: str) -> tuple[str, ...]:
    return tuple(statement.strip().removesuffix(";") for statement in schema_sql(name).split(";\n\n"))


MIGRATIONS: Final = (Migration(_statements("document_system_1")),)
"""All that ever were, in their order; one that was released is never changed."""
