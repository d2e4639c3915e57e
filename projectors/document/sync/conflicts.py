"""What becomes of pushed changes that do not fit: left out, taken over what is here, or told to whoever pushed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apsw

from projectors.document.tables import ROWID, TableShape
from schemas.document import PushChanges
from schemas.problems import SYNC_CONFLICT, Refusal
from schemas.sync import CONFLICTS_TOLD_MAX, ConflictingRow, ConflictsProblem, shown

_KINDS = {
    apsw.SQLITE_CHANGESET_DATA: "changed",
    apsw.SQLITE_CHANGESET_NOTFOUND: "gone",
    apsw.SQLITE_CHANGESET_CONFLICT: "exists",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "constraint",
}
_REPLACEABLE = (apsw.SQLITE_CHANGESET_DATA, apsw.SQLITE_CHANGESET_CONFLICT)
_OPERATIONS = {"INSERT": "insert", "UPDATE": "update", "DELETE": "delete"}


@dataclass(slots=True)
class Verdicts:
    """The conflict handler of one push, and what it decided change by change."""

    command: PushChanges
    shapes: Mapping[str, TableShape]
    omitted: int = 0
    replaced: int = 0
    unresolved: int = 0
    broken_references: int = 0
    told: list[ConflictingRow] = field(default_factory=list)

    def __call__(self, kind: int, change: apsw.TableChange) -> int:
        if kind == apsw.SQLITE_CHANGESET_FOREIGN_KEY:
            self.broken_references = change.fk_conflicts or 0
            return apsw.SQLITE_CHANGESET_OMIT
        policy = self.command.policy
        if policy == "client" and kind in _REPLACEABLE:
            self.replaced += 1
            return apsw.SQLITE_CHANGESET_REPLACE
        # A row that the client changed and somebody else removed cannot be put back from a change alone. One that
        # breaks a constraint is different: leaving it out would not be what `client` says.
        if policy == "server" or (policy == "client" and kind == apsw.SQLITE_CHANGESET_NOTFOUND):
            self.omitted += 1
            return apsw.SQLITE_CHANGESET_OMIT
        self.unresolved += 1
        if len(self.told) < CONFLICTS_TOLD_MAX:
            self.told.append(_told(self.shapes[change.name], kind, change))
        return apsw.SQLITE_CHANGESET_OMIT  # to hear of the others too; everything is undone at the end


def refuse_conflicts(
    db: apsw.Connection, command: PushChanges, verdicts: Verdicts, shapes: Mapping[str, TableShape]
) -> None:
    """Raise `Refusal` if some change did not fit and nothing said what to do, or left a row that refers to none."""
    if not (count := verdicts.unresolved or verdicts.broken_references):
        return
    told = verdicts.told if verdicts.unresolved else _broken_references(db, shapes)
    what = "change does" if count == 1 else "changes do"
    fix = "Bring the copy up to date and make the changes again"
    if command.policy == "fail" and verdicts.unresolved:
        fix += ", or say with `policy` who wins: `server` or `client`"
    problem = SYNC_CONFLICT.problem(f"{count} {what} not fit what is here now; nothing was changed", fix=f"{fix}.")
    raise Refusal(
        ConflictsProblem(**problem.model_dump(), conflicts=tuple(told[:CONFLICTS_TOLD_MAX]), conflict_count=count)
    )


def _broken_references(db: apsw.Connection, shapes: Mapping[str, TableShape]) -> list[ConflictingRow]:
    """Return rows that refer to none, in the tables that were changed and in those that refer to them."""
    children = db.execute(
        "SELECT DISTINCT m.name FROM main.sqlite_schema m, pragma_foreign_key_list(m.name) f "
        "WHERE m.type = 'table' AND lower(f.\"table\") IN (SELECT lower(value) FROM json_each(?))",
        (apsw.jsonb_encode([shape.name for shape in shapes.values()]),),
    )
    names = {shape.name for shape in shapes.values()} | {str(name) for (name,) in children}
    told: list[ConflictingRow] = []
    for name in sorted(names):
        query = "SELECT rowid, parent FROM pragma_foreign_key_check(?) LIMIT ?"
        for rowid, parent in db.execute(query, (name, CONFLICTS_TOLD_MAX)):
            key = {} if rowid is None else {ROWID: shown(rowid)}
            told.append(ConflictingRow(table=name, kind="reference", key=key, parent=str(parent)))
    return told


def _told(shape: TableShape, kind: int, change: apsw.TableChange) -> ConflictingRow:
    row: Sequence[Any] = change.old or change.new or ()
    key = {column: row[place] for place, column in enumerate(shape.columns) if column in shape.key}
    return ConflictingRow(
        table=shape.name,
        kind=_KINDS[kind],
        operation=_OPERATIONS[change.op],
        key={column: shown(value) for column, value in key.items()},
        yours=_named(shape, change.new),
        theirs=_theirs(shape, change),
    )


def _theirs(shape: TableShape, change: apsw.TableChange) -> dict[str, Any] | None:
    try:
        return _named(shape, change.conflict)
    except UnicodeDecodeError:  # text that is none was stored by a cast
        return None


def _named(shape: TableShape, row: Sequence[Any] | None) -> dict[str, Any] | None:
    """Return the columns of a row that a change has a value for."""
    if row is None:
        return None
    pairs = zip(shape.columns, row, strict=True)
    return {column: shown(value) for column, value in pairs if value is not apsw.no_change}
