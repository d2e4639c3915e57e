"""Taking over changes that were made in a copy of the document: all that fit, or none."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

from projectors.digest import quoted
from projectors.document.capture import Capture
from projectors.document.sync.conflicts import Verdicts, refuse_conflicts
from projectors.document.tables import OURS, Tables, TableShape
from projectors.domain import Decision
from projectors.projection import read_cursor
from schemas.document import ChangesPushed, PushChanges
from schemas.ids import Position
from schemas.problems import CONFLICT, INVALID_BODY, UNPROCESSABLE, Refusal
from schemas.system_tables import is_system

CHANGES_MAX = 1_000_000
APPLY_FLAGS = apsw.SQLITE_CHANGESETAPPLY_FKNOACTION | apsw.SQLITE_CHANGESETAPPLY_IGNORENOOP


def decide_push(db: apsw.Connection, command: PushChanges) -> Decision:
    """Take over a changeset, leaving its effects in `db`; raise `Refusal` with nothing left behind.

    The answer counts the changes that were `applied`, `omitted` and `replaced`.
    """
    with Capture(db) as capture:
        answer = apply_push(db, command, capture.cut)
        capture.finish()
    # Without any effect it is a fact too: a retry must get this answer, whatever it would find then.
    pushed = ChangesPushed(steps=tuple(capture.steps), tables=capture.tables, base=command.base, policy=command.policy)
    return Decision([pushed], answer, applied=True)


def apply_push(db: apsw.Connection, command: PushChanges, cut: Callable[[], None]) -> dict[str, int]:
    """Apply a changeset inside of the caller's transaction and session; raise `Refusal` with nothing changed.

    Triggers do not run and foreign keys do not act: what they did in the copy is in the changeset.
    """
    _refuse_base(db, command)
    tables = Tables.of(db)
    changes, shapes = _check(tables, command)
    indexes = _text_indexes(db, shapes)
    taken = {name: shape for name, shape in shapes.items() if name not in indexes.left_out}
    verdicts = Verdicts(command, shapes)
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
            if indexes.rebuilt:
                cut()  # what a capture can tell as changes depends on how many there are
            for index in indexes.rebuilt:
                _rebuild(db, index)
        refuse_conflicts(db, command, verdicts, taken)
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
    if base > now:
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
    except (apsw.Error, UnicodeDecodeError) as error:
        raise Refusal(
            INVALID_BODY.problem(
                f"the changeset cannot be read: {error}",
                fix="Send what sqlite3session_changeset gives (no patchset), in base64.",
                field="changeset",
            )
        ) from error
    return counts, shapes


def _shape(tables: Tables, name: str, command: PushChanges) -> TableShape:
    if name.lower().startswith(OURS) or is_system(name):
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
    for row in (change.old, change.new):  # that of an update has no key
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
