"""Taking over changes that were made in a copy of the document: all that fit, or none."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import apsw

from projectors.digest import quoted
from projectors.document.capture import Capture
from projectors.document.tables import OURS, ROWID, Tables, TableShape
from projectors.domain import Decision
from projectors.projection import read_cursor
from schemas.document import ChangesPushed, PushChanges
from schemas.ids import Position
from schemas.problems import CONFLICT, INVALID_BODY, SYNC_CONFLICT, UNPROCESSABLE, Refusal
from schemas.sync import CONFLICTS_TOLD_MAX, ConflictingRow, ConflictsProblem, shown

CHANGES_MAX = 1_000_000
APPLY_FLAGS = apsw.SQLITE_CHANGESETAPPLY_FKNOACTION | apsw.SQLITE_CHANGESETAPPLY_IGNORENOOP
_KINDS = {
    apsw.SQLITE_CHANGESET_DATA: "changed",
    apsw.SQLITE_CHANGESET_NOTFOUND: "gone",
    apsw.SQLITE_CHANGESET_CONFLICT: "exists",
    apsw.SQLITE_CHANGESET_CONSTRAINT: "constraint",
}
_REPLACEABLE = (apsw.SQLITE_CHANGESET_DATA, apsw.SQLITE_CHANGESET_CONFLICT)
_OPERATIONS = {"INSERT": "insert", "UPDATE": "update", "DELETE": "delete"}


@dataclass(slots=True)
class _Verdicts:
    """What the conflict handler decided, change by change."""

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


def decide_push(db: apsw.Connection, command: PushChanges) -> Decision:
    """Take over a changeset, leaving its effects in `db`; raise `Refusal` with nothing left behind.

    The answer counts the changes that were `applied`, `omitted` and `replaced`.
    """
    with Capture(db) as capture:
        answer = apply_push(db, command)
        capture.finish()
    # Without any effect it is a fact too: a retry must get this answer, whatever it would find then.
    pushed = ChangesPushed(steps=tuple(capture.steps), tables=capture.tables, base=command.base, policy=command.policy)
    return Decision([pushed], answer, applied=True)


def apply_push(db: apsw.Connection, command: PushChanges) -> dict[str, int]:
    """Apply a changeset inside of the caller's transaction and session; raise `Refusal` with nothing changed.

    Triggers do not run and foreign keys do not act: what they did in the copy is in the changeset.
    """
    _refuse_base(db, command)
    tables = Tables.of(db)
    changes, shapes = _check(tables, command)
    indexes = _text_indexes(db, shapes)
    taken = {name: shape for name, shape in shapes.items() if name not in indexes.left_out}
    verdicts = _Verdicts(command, shapes)
    db.execute("SAVEPOINT push")
    try:
        with _effects_only(db):
            apsw.Changeset.apply(
                command.changeset,
                db,
                filter=lambda name: name in taken,
                conflict=verdicts,
                flags=APPLY_FLAGS,
            )
            for index in indexes.rebuilt:
                _rebuild(db, index)
        _refuse_conflicts(db, command, verdicts, taken)
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK TO push")
            db.execute("RELEASE push")
        raise
    db.execute("RELEASE push")
    total = sum(changes[name] for name in taken)
    applied = total - verdicts.omitted - verdicts.replaced
    return {"applied": applied, "omitted": verdicts.omitted, "replaced": verdicts.replaced}


def _refuse_base(db: apsw.Connection, command: PushChanges) -> None:
    base, now = Position.parse(command.base), read_cursor(db).position
    if base.epoch != now.epoch or base > now:
        raise Refusal(
            CONFLICT.problem(
                f"base {base} is not in this history, which stands at {now}",
                fix="Take a new copy of the document: yours is of another history.",
                field="base",
            )
        )


def _check(tables: Tables, command: PushChanges) -> tuple[dict[str, int], dict[str, TableShape]]:
    """Return how many changes there are by table, and the tables' shapes; refuse what SQLite would skip in silence."""
    counts: dict[str, int] = {}
    shapes: dict[str, TableShape] = {}
    try:
        apsw.Changeset.invert(command.changeset)  # fails on a patchset, which has no old values to compare with
        for count, change in enumerate(apsw.Changeset.iter(command.changeset)):
            if count >= CHANGES_MAX:
                raise Refusal(INVALID_BODY.problem(f"more than {CHANGES_MAX} changes", field="changeset"))
            name = change.name
            if name not in shapes:
                shapes[name] = _shape(tables, name, command)
            _refuse_misfit(shapes[name], change)
            counts[name] = counts.get(name, 0) + 1
    except apsw.Error as error:
        raise Refusal(
            INVALID_BODY.problem(
                f"the changeset cannot be read: {error}",
                fix="Send what sqlite3session_changeset gives (no patchset), in base64.",
                field="changeset",
            )
        ) from error
    return counts, shapes


def _shape(tables: Tables, name: str, command: PushChanges) -> TableShape:
    if name.lower().startswith(OURS):
        raise Refusal(UNPROCESSABLE.problem(f"table {name} cannot be written", field="changeset"))
    if name not in tables:
        raise _other_shape(f"there is no table {name} here")
    shape = tables.shape(name)
    seen = command.columns.get(name.lower(), shape.columns)
    if seen != shape.columns:
        raise _other_shape(f"table {name} has other columns than at {command.base}")
    return shape


def _refuse_misfit(shape: TableShape, change: apsw.TableChange) -> None:
    key = {place for place, column in enumerate(shape.columns) if column in shape.key}
    if change.column_count != len(shape.columns) or set(change.pk_columns) != key:
        raise _other_shape(
            f"table {shape.name} has {len(shape.columns)} columns with the key ({', '.join(shape.key)}) here, and "
            f"{change.column_count} with the key at {sorted(change.pk_columns)} in the changeset"
        )
    for row in (change.old, change.new if change.op == "INSERT" else None):
        if row is not None and any(row[place] is None for place in key):
            raise Refusal(
                UNPROCESSABLE.problem(
                    f"a change of table {shape.name} has NULL in its key, by which no row can be found",
                    fix="Give every row a key that is not NULL.",
                    field="changeset",
                )
            )


def _other_shape(why: str) -> Refusal:
    return Refusal(
        CONFLICT.problem(
            why,
            fix="Bring the copy up to date first, so that it has the same tables, and make the changes again.",
            field="changeset",
        )
    )


@dataclass(frozen=True, slots=True)
class _TextIndexes:
    """Full-text tables that a changeset touches, and those of their tables that are made anew instead of taken over."""

    rebuilt: tuple[str, ...]
    left_out: frozenset[str]


def _text_indexes(db: apsw.Connection, shapes: Mapping[str, TableShape]) -> _TextIndexes:
    """Find them. Two indexes cannot be merged block by block, so only the rows are taken, and indexed here."""
    listed = db.execute("SELECT lower(name), type FROM pragma_table_list WHERE schema = 'main'")
    kinds = {str(name): str(kind) for name, kind in listed}
    rebuilt: dict[str, None] = {}
    left_out: set[str] = set()
    for name in shapes:
        kind = kinds[name.lower()]
        owner, _, part = name.lower().rpartition("_")
        if kind == "virtual" or (kind == "shadow" and kinds.get(owner) != "virtual"):
            raise Refusal(UNPROCESSABLE.problem(f"table {name} cannot be written", field="changeset"))
        if kind == "shadow":
            rebuilt[owner] = None
            if part != "content":
                left_out.add(name)
    return _TextIndexes(tuple(rebuilt), frozenset(left_out))


def _rebuild(db: apsw.Connection, index: str) -> None:
    name = quoted(index)
    try:
        db.execute(f"INSERT INTO main.{name}({name}) VALUES ('rebuild')")
    except apsw.Error as error:
        raise Refusal(
            UNPROCESSABLE.problem(
                f"the full-text table {index} cannot be brought up to date: {error}",
                fix="Full-text tables without content of their own cannot be synced; change them here.",
            )
        ) from error


@contextmanager
def _effects_only(db: apsw.Connection) -> Iterator[None]:
    """Have foreign keys checked but nothing happen by itself, and let the rows of full-text tables be written."""
    wanted = (
        (apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0),
        (apsw.SQLITE_DBCONFIG_ENABLE_FKEY, 1),
        (apsw.SQLITE_DBCONFIG_DEFENSIVE, 0),
    )
    before = [(option, db.config(option, -1)) for option, _ in wanted]
    for option, value in wanted:
        db.config(option, value)
    try:
        yield
    finally:
        for option, value in before:
            db.config(option, value)


def _refuse_conflicts(
    db: apsw.Connection, command: PushChanges, verdicts: _Verdicts, shapes: Mapping[str, TableShape]
) -> None:
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
        theirs=_named(shape, change.conflict),
    )


def _named(shape: TableShape, row: Sequence[Any] | None) -> dict[str, Any] | None:
    """Return the columns of a row that a change has a value for."""
    if row is None:
        return None
    pairs = zip(shape.columns, row, strict=True)
    return {column: shown(value) for column, value in pairs if value is not apsw.no_change}
