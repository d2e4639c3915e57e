"""The SQL functions that users may call, and bounded ones in place of those whose cost is not linear.

A replacement gives what SQLite's own gives, or an error where that would take too long: other programs read the
indexes and generated columns that it made with their own.
"""

from collections.abc import Callable
from typing import Any

import apsw

from projectors.document.sql.bounds import SqlBounds

COST_MAX = 1 << 28
"""Bytes that SQLite's own function may compare in one call: about a tenth of a second."""
PATCH_COST_MAX = 1 << 32
"""Of `jsonb_patch`, which looks at each key of both for each key of the second."""

_NAMES = """
-> ->> abs changes char coalesce concat concat_ws format glob hex if ifnull iif instr last_insert_rowid length like
likelihood likely lower ltrim max min nullif octet_length printf quote random randomblob replace round rtrim sign
sqlite_version substr substring total_changes trim typeof unhex unicode unistr unistr_quote unlikely upper zeroblob
avg count cume_dist dense_rank first_value group_concat lag last_value lead median nth_value ntile percent_rank
percentile percentile_cont percentile_disc rank row_number string_agg sum total
acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power
radians sin sinh sqrt tan tanh trunc
current_date current_time current_timestamp date datetime julianday strftime time timediff unixepoch
json json_array json_array_insert json_array_length json_error_position json_extract json_group_array
json_group_object json_insert json_object json_quote json_remove json_replace json_set json_type
json_valid jsonb jsonb_array jsonb_array_insert jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert
jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set
bm25 fts5_get_locale fts5_insttoken fts5_locale highlight match snippet
"""
FUNCTIONS = frozenset(_NAMES.split())
"""What users may call: scalar, aggregate and window functions, mathematics, time, JSON, full-text search."""
CALL_COSTS = {"like": 16, "glob": 16}
"""How many times as long as a function of linear cost these may take, with the longest pattern."""

INSTEAD = {
    "json_patch": "Use json(jsonb_patch(a, b)), which gives the same.",
    "json_pretty": "Use json(x), and indent it where it is shown.",
}
"""What to do instead of a function that users may not call."""


class _Plain:
    """SQLite's own functions, on a connection that nothing else uses."""

    def __init__(self, value_bytes: int) -> None:
        self._value_bytes = value_bytes
        self._db: apsw.Connection | None = None  # few ever need it, and it is as large as the other one

    def call(self, name: str, *arguments: Any) -> Any:
        if self._db is None:
            self._db = apsw.Connection(":memory:")
            self._db.limit(apsw.SQLITE_LIMIT_LENGTH, self._value_bytes)
        return self._db.execute(f"SELECT {name}({','.join('?' * len(arguments))})", arguments).get


def install(db: apsw.Connection, bounds: SqlBounds) -> None:
    """Put the bounded functions in place on `db`."""
    plain = _Plain(bounds.value_bytes)

    def put(name: str, count: int, function: Callable[..., Any]) -> None:
        db.create_scalar_function(name, function, count, deterministic=True, flags=apsw.SQLITE_INNOCUOUS)

    put("instr", 2, _instr(plain))
    put("replace", 3, _replace(plain, bounds.value_bytes))
    for name, strip in (("trim", str.strip), ("ltrim", str.lstrip), ("rtrim", str.rstrip)):
        put(name, 2, _trim(plain, name, strip))
    put("unhex", 2, _within(plain, "unhex", COST_MAX))
    put("jsonb_patch", 2, _jsonb_patch(plain))


def _instr(plain: _Plain) -> Callable[..., Any]:
    other = _within(plain, "instr", COST_MAX)

    def instr(text: Any, part: Any) -> Any:
        if type(text) is type(part) and isinstance(text, str | bytes):
            return text.find(part) + 1
        return other(text, part)

    return instr


def _replace(plain: _Plain, value_bytes: int) -> Callable[..., Any]:
    def replace(text: Any, old: Any, new: Any) -> Any:
        if type(text) is str and type(old) is str and type(new) is str and old and old[0] != "\0":
            grows = len(new.encode()) - len(old.encode())
            if grows > 0 and len(text.encode()) + text.count(old) * grows > value_bytes:
                raise apsw.TooBigError("string or blob too big")
            return text.replace(old, new)
        if _size(text) * _size(old) > COST_MAX:
            raise _too_costly("replace")
        return plain.call("replace", text, old, new)

    return replace


def _trim(plain: _Plain, name: str, strip: Callable[[str, str], str]) -> Callable[..., Any]:
    other = _within(plain, name, COST_MAX)

    def trim(text: Any, characters: Any) -> Any:
        if type(text) is str and type(characters) is str:
            unwanted = "".join(set(characters.split("\0", 1)[0]))
            if len(text) * len(unwanted) > COST_MAX:
                raise _too_costly(name)
            return strip(text, unwanted)
        return other(text, characters)

    return trim


def _jsonb_patch(plain: _Plain) -> Callable[..., Any]:
    def jsonb_patch(target: Any, patch: Any) -> Any:
        if (_size(target) + _size(patch)) * _size(patch) > PATCH_COST_MAX:
            raise _too_costly("jsonb_patch")
        return plain.call("jsonb_patch", target, patch)

    return jsonb_patch


def _within(plain: _Plain, name: str, cost_max: int) -> Callable[..., Any]:
    def bounded(first: Any, second: Any) -> Any:
        if _size(first) * _size(second) > cost_max:
            raise _too_costly(name)
        return plain.call(name, first, second)

    return bounded


def _size(value: Any) -> int:
    match value:
        case str():
            return len(value) if value.isascii() else 4 * len(value)
        case bytes():
            return len(value)
    return 32


def _too_costly(name: str) -> apsw.TooBigError:
    return apsw.TooBigError(f"the arguments of {name}() are too long together")
