"""What SQL of users may do: an allow-list over the actions that SQLite's authorizer names.

No decision rests on the authorizer's fifth argument, the view or trigger inside of which something happens: a common
table expression can give itself any name there.
"""

from collections.abc import Callable
from typing import Final

import apsw

from projectors.document.sql.functions import CALL_COSTS, FUNCTIONS, INSTEAD
from schemas.document import SqlClass
from schemas.problems import FORBIDDEN, QUERY_TOO_LARGE, SQL_NOT_ALLOWED, Problem
from schemas.system_tables import EMPTIED, NEEDED_COLUMNS, instead_of, is_system

OURS: Final = "_forge"
MODULES: Final = frozenset({"fts5", "fts5vocab"})
CLASSES: Final[tuple[SqlClass, ...]] = ("read", "write", "admin")

READ_PRAGMAS: Final = frozenset(
    {"collation_list", "foreign_key_check", "foreign_key_list", "index_info", "index_list", "index_xinfo"}
    | {"integrity_check", "quick_check", "table_info", "table_list", "table_xinfo"}
)
READ_PRAGMAS_ALONE: Final = frozenset(  # with an argument they change something
    {"application_id", "data_version", "encoding", "foreign_keys", "freelist_count", "page_count", "page_size"}
    | {"schema_version", "user_version"}
)
ADMIN_PRAGMAS: Final = frozenset({"application_id", "user_version"})

_FOREIGN_MODULES: Final = frozenset(
    {"carray", "dbstat", "fts3tokenize", "fts4aux", "sqlite_dbpage", "sqlite_dbptr", "sqlite_stmt", "bytecode"}
    | {"tables_used", "generate_series", "completion", "fsdir", "zipfile"}
)
_SCHEMA_TABLES: Final = frozenset({"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"})
_MADE_BY_SQLITE: Final = frozenset({"sqlite_sequence", "sqlite_stat1", "sqlite_stat4"})
_RESHAPING: Final = frozenset(
    {"sqlite_rename_table", "sqlite_rename_column", "sqlite_drop_column", "sqlite_drop_constraint"}
    | {"sqlite_add_constraint"}
)

INTERNAL: Final = ("sqlite_rename_", "sqlite_drop_", "sqlite_add_", "sqlite_find_", "sqlite_fail")
"""How the functions begin that ALTER TABLE calls; SQLite lets nobody else call them."""

OK: Final = apsw.SQLITE_OK
DENY: Final = apsw.SQLITE_DENY
IGNORE: Final = apsw.SQLITE_IGNORE


def is_ours(name: str) -> bool:
    """Whether `name` is kept for Forge alone."""
    return name.lower().startswith(OURS)


class Permissions:
    """What one statement asked for, and what it was told.

    `kind` is the highest class that it needed so far, `tables` the tables and views that it reads (lower case), `ddl`
    its changes of the schema as (action, name), actions as SQLite names them (`CREATE_TABLE`); `denied` why it may not
    run; `calls` in how many places it calls functions, the costly ones counted more often; `whole` whether it looks at
    more than `tables`: at the schema, or at the state of the file.
    """

    __slots__ = (
        "_calls_max",
        "_classes",
        "altered",
        "calls",
        "clears_statistics",
        "ddl",
        "denied",
        "kind",
        "tables",
        "whole",
    )

    def __init__(self, classes: frozenset[SqlClass], function_calls: int) -> None:
        self._classes = classes
        self.calls = 0
        self._calls_max = function_calls
        self.kind: SqlClass = "read"
        self.tables: set[str] = set()
        self.ddl: list[tuple[str, str]] = []
        self.altered: set[str] = set()
        self.clears_statistics = False
        self.whole = False
        self.denied: Problem | None = None

    def decide(self, action: int, first: str | None, second: str | None, schema: str | None) -> int:
        """Answer SQLite: may this happen?"""
        rule = _RULES.get(action)
        if rule is None:
            return self._never(_NAMES.get(action, "this"))
        return rule(self, first or "", second, schema or "main")

    def _refuse(self, problem: Problem) -> int:
        if self.denied is None:
            self.denied = problem
        return DENY

    def _never(self, what: str, fix: str | None = None) -> int:
        return self._refuse(SQL_NOT_ALLOWED.problem(f"{what} is not allowed", fix=fix))

    def _need(self, kind: SqlClass) -> int:
        if kind not in self._classes:
            has = ", ".join(f"query.{name}" for name in CLASSES if name in self._classes)
            why = f"the statement needs query.{kind}, the token has {has}"
            return self._refuse(FORBIDDEN.problem(why, fix=f"Use a token that has the scope query.{kind}."))
        if kind == "admin" or self.kind == "read":
            self.kind = kind
        return OK

    def _select(self, _: str, __: str | None, ___: str) -> int:
        return OK

    def _read(self, table: str, _: str | None, schema: str) -> int:
        name = table.lower()
        if schema != "main" and not (self.altered and name in _SCHEMA_TABLES):
            return self._never(f"reading {schema}.{table}")
        if name.startswith(OURS):
            return self._never(f"reading {table}", "Names that begin with _forge are kept for Forge.")
        if name in _FOREIGN_MODULES:
            return self._never(f"reading {table}")
        if name.startswith("pragma_") and name[7:] not in READ_PRAGMAS and name[7:] not in READ_PRAGMAS_ALONE:
            return self._never(f"reading {table}")
        self.tables.add(name)
        return OK

    def _function(self, _: str, function: str | None, __: str) -> int:
        name = (function or "").lower()
        self.calls += CALL_COSTS.get(name, 1)
        if self.calls > self._calls_max:
            return self._refuse(QUERY_TOO_LARGE.problem("the statement calls functions in too many places"))
        if name in FUNCTIONS:
            return OK
        if self.altered and name.startswith(INTERNAL):
            return self._reshape(name)
        return self._never(f"the function {name}()", INSTEAD.get(name))

    def _reshape(self, internal: str) -> int:
        if internal in _RESHAPING and (system := next(filter(is_system, self.altered), None)):
            return self._never(f"changing what {system} has already", "A system table only takes more columns.")
        return OK

    def _pragma(self, pragma: str, argument: str | None, schema: str) -> int:
        name = pragma.lower()
        if schema != "main" or is_ours(argument or ""):
            return self._never(f"PRAGMA {name} of that")
        if name in READ_PRAGMAS or (name in READ_PRAGMAS_ALONE and argument is None):
            self.whole |= name != "data_version"  # which FTS5 asks for
            return OK
        if name in ADMIN_PRAGMAS:
            return self._need("admin")
        return self._never(f"PRAGMA {name}" if argument is None else f"PRAGMA {name} with a value")

    def _write(self, table: str, column: str | None, schema: str) -> int:
        name = table.lower()
        if schema != "main" and not (self.altered and name in _SCHEMA_TABLES):
            return self._never("writing temporary tables")
        if name.startswith("sqlite_"):
            if name in _SCHEMA_TABLES:
                return self._need("admin")  # part of a change of the schema; by itself SQLite refuses it
            if name != "sqlite_sequence":
                return self._never(f"writing {table}")
        if (refused := self._kept(table, f"writing {column} of" if column else "writing")) is not None:
            return refused
        return self._need("write")

    def _update(self, table: str, column: str | None, schema: str) -> int:
        """Of system tables users write the columns that they have added."""
        needed = NEEDED_COLUMNS.get(table.lower())
        name = (column or "").lower()
        if needed is not None and schema == "main" and name not in needed and name not in ("", "rowid"):
            return self._need("write")
        return self._write(table, column, schema)

    def _delete(self, table: str, column: str | None, schema: str) -> int:
        if table.lower() in _MADE_BY_SQLITE and schema == "main":
            if table.lower() == "sqlite_sequence":
                return self._need("write")
            self.clears_statistics = True  # as part of DROP and ANALYZE; ANALYZE says later that it is one
            return self._need("admin")
        if table.lower() in EMPTIED and schema == "main":
            return self._need("admin")
        return self._write(table, column, schema)

    def _kept(self, name: str, doing: str) -> int | None:
        if is_ours(name):
            return self._never(f"{doing} {name}", "Names that begin with _forge are kept for Forge.")
        if is_system(name):
            return self._never(f"{doing} {name}", instead_of(doing, name))
        return None

    def _table(self, action: str, name: str, schema: str) -> int:
        """CREATE or DROP of something that shares the names of tables."""
        doing = action.replace("_", " ").replace("VTABLE", "TABLE")
        if schema != "main":
            return self._never("a temporary table")
        if name.lower() in _FOREIGN_MODULES or name.lower().startswith("pragma_"):
            return self._never(f"{doing} {name}", "The name has a meaning in SQLite; choose another one.")
        if (refused := self._kept(name, doing)) is not None:
            return refused
        if name.lower() in _MADE_BY_SQLITE and action == "CREATE_TABLE":
            return self._need("admin")
        if name.lower().startswith("sqlite_"):
            return self._never(f"{doing} {name}")
        self.ddl.append((action, name))
        return self._need("admin")

    def _create_virtual(self, name: str, module: str | None, schema: str) -> int:
        if (module or "").lower() not in MODULES:
            return self._never(f"a virtual table of {module}", f"There are {', '.join(sorted(MODULES))}.")
        return self._table("CREATE_VTABLE", name, schema)

    def _on_table(self, action: str, name: str, table: str | None, schema: str) -> int:
        """CREATE or DROP of an index or trigger: on system tables too, but for those that are Forge's own."""
        doing = action.replace("_", " ")
        table = (table or "").lower()
        if schema != "main" or is_ours(table):
            return self._never(f"{doing} on {schema}.{table}")
        automatic = name.lower().startswith("sqlite_autoindex_")
        if is_ours(name) or (is_system(table) and not automatic and name.lower().startswith(f"{table}_")):
            return self._never(f"{doing} {name}", "Names like this one are kept for Forge; choose another one.")
        if action == "CREATE_INDEX" and is_system(name):
            return self._never(f"{doing} {name}", "System tables have this name; choose another one.")
        if not automatic:
            self.ddl.append((action, name))
        return self._need("admin")

    def _alter(self, schema: str, table: str | None, _: str) -> int:
        table = (table or "").lower()
        if schema != "main" or is_ours(table):
            return self._never(f"ALTER TABLE {schema}.{table}")
        self.altered.add(table)
        self.ddl.append(("ALTER_TABLE", table))
        return self._need("admin")

    def _reindex(self, index: str, _: str | None, schema: str) -> int:
        self.ddl.append(("REINDEX", index))
        return self._need("admin") if schema == "main" else self._never("REINDEX of that")

    def _analyze(self, table: str, _: str | None, schema: str) -> int:
        if is_ours(table):
            return IGNORE  # it is passed over; what statistics say of it users could read
        self.ddl.append(("ANALYZE", table))
        return self._need("admin") if schema == "main" else self._never("ANALYZE of that")


_NAMES: Final = {
    apsw.SQLITE_ATTACH: "ATTACH (or VACUUM)",
    apsw.SQLITE_DETACH: "DETACH",
    apsw.SQLITE_TRANSACTION: "BEGIN, COMMIT or ROLLBACK",
    apsw.SQLITE_SAVEPOINT: "SAVEPOINT, RELEASE or ROLLBACK TO",
    apsw.SQLITE_CREATE_TEMP_INDEX: "an index on a temporary table",
    apsw.SQLITE_CREATE_TEMP_TABLE: "a temporary table",
    apsw.SQLITE_CREATE_TEMP_TRIGGER: "a temporary trigger",
    apsw.SQLITE_CREATE_TEMP_VIEW: "a temporary view",
    apsw.SQLITE_DROP_TEMP_INDEX: "dropping an index of a temporary table",
    apsw.SQLITE_DROP_TEMP_TABLE: "dropping a temporary table",
    apsw.SQLITE_DROP_TEMP_TRIGGER: "dropping a temporary trigger",
    apsw.SQLITE_DROP_TEMP_VIEW: "dropping a temporary view",
}

Rule = Callable[[Permissions, str, str | None, str], int]


def _tables(action: str) -> Rule:
    return lambda permissions, name, _, schema: permissions._table(action, name, schema)


def _on_tables(action: str) -> Rule:
    return lambda permissions, name, table, schema: permissions._on_table(action, name, table, schema)


_RULES: Final[dict[int, Rule]] = {
    apsw.SQLITE_SELECT: Permissions._select,
    apsw.SQLITE_RECURSIVE: Permissions._select,
    apsw.SQLITE_READ: Permissions._read,
    apsw.SQLITE_FUNCTION: Permissions._function,
    apsw.SQLITE_PRAGMA: Permissions._pragma,
    apsw.SQLITE_INSERT: Permissions._write,
    apsw.SQLITE_UPDATE: Permissions._update,
    apsw.SQLITE_DELETE: Permissions._delete,
    apsw.SQLITE_CREATE_TABLE: _tables("CREATE_TABLE"),
    apsw.SQLITE_CREATE_VIEW: _tables("CREATE_VIEW"),
    apsw.SQLITE_CREATE_VTABLE: Permissions._create_virtual,
    apsw.SQLITE_CREATE_INDEX: _on_tables("CREATE_INDEX"),
    apsw.SQLITE_CREATE_TRIGGER: _on_tables("CREATE_TRIGGER"),
    apsw.SQLITE_DROP_TABLE: _tables("DROP_TABLE"),
    apsw.SQLITE_DROP_VIEW: _tables("DROP_VIEW"),
    apsw.SQLITE_DROP_VTABLE: _tables("DROP_VTABLE"),
    apsw.SQLITE_DROP_INDEX: _on_tables("DROP_INDEX"),
    apsw.SQLITE_DROP_TRIGGER: _on_tables("DROP_TRIGGER"),
    apsw.SQLITE_ALTER_TABLE: Permissions._alter,
    apsw.SQLITE_REINDEX: Permissions._reindex,
    apsw.SQLITE_ANALYZE: Permissions._analyze,
}
