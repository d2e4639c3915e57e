"""The registry of documents as every route needs it: is there such a document, and does it take writes?"""

from collections import OrderedDict

from projectors.control import queries
from projectors.control.queries import DocumentRow
from projectors.control.reading import ControlReader
from projectors.outcome import Committed
from schemas.control import RegistryFact
from schemas.problems import DOCUMENT_ARCHIVED, DOCUMENT_DELETED, NOT_FOUND, Refusal

CACHED_MAX = 10_000


class Registry:
    """Documents by `db_id`. Hand `heard` to `Partitions.listen`: what a commit changed is forgotten."""

    def __init__(self, reader: ControlReader) -> None:
        self._reader = reader
        self._cached: OrderedDict[str, DocumentRow] = OrderedDict()

    def find(self, db_id: str) -> DocumentRow | None:
        """Return a document in whatever state, None if there never was one."""
        if row := self._cached.get(db_id):
            self._cached.move_to_end(db_id)
            return row
        row = self._reader.read(lambda db: queries.document(db, db_id))
        if row is not None:
            self._cached[db_id] = row
            if len(self._cached) > CACHED_MAX:
                self._cached.popitem(last=False)
        return row

    def require(self, db_id: str, *, for_writing: bool = False) -> DocumentRow:
        """Return a document that can be read, or written.

        Raise `Refusal`: 404 if there never was one, 410 if it is deleted, 409 to write to one that is archived.
        """
        row = self.find(db_id)
        if row is None:
            raise unknown(db_id)
        if row.deleted_at:
            raise deleted(row)
        if for_writing and row.archived_at:
            why = f"{db_id} was archived at {row.archived_at} and takes no writes"
            fix = f"Take it out of the archive: `POST /api/v1/db/{db_id}/unarchive`."
            raise Refusal(DOCUMENT_ARCHIVED.problem(why, fix=fix))
        return row

    def owner(self, db_id: str) -> str | None:
        """Return whose document it is."""
        row = self.find(db_id)
        return row.owner if row else None

    def owns_any(self, name: str) -> bool:
        """Say whether somebody has some document."""
        return self._reader.read(lambda db: queries.owns_any(db, name))

    def heard(self, committed: Committed) -> None:
        """Forget what a commit has changed."""
        if committed.partition.domain != "control":
            return
        if not committed.facts:  # it may have folded anything
            self._cached.clear()
        for fact in committed.facts:
            if isinstance(fact, RegistryFact):
                self._cached.pop(fact.db_id, None)


def unknown(db_id: str) -> Refusal:
    """Return the refusal for a document that never was."""
    fix = 'Create it: `POST /api/v1/db` with {"db_id": ...}, or `forge db create`.'
    return Refusal(NOT_FOUND.problem(f"there is no document {db_id!r}", fix=fix))


def deleted(row: DocumentRow) -> Refusal:
    """Return the refusal for a document that is gone."""
    fix = f"Bring it back: `POST /api/v1/db/{row.db_id}/undelete`."
    return Refusal(DOCUMENT_DELETED.problem(f"{row.db_id} was deleted at {row.deleted_at}", fix=fix))
