"""Makes up SQL from a grammar of what SQLite takes, of what it may not do here, and of mistakes."""

import random

import apsw

from projectors.document.sql.functions import FUNCTIONS
from tests.unit.hostile_sql import OURS, OUTSIDE, SCHEMA, pragmas

TABLES = (
    "t",
    "u",
    "n",
    "w",
    "f",
    "messages",
    "x",
    "y",
    "sqlite_schema",
    "_forge_command",
    "json_each('[1,2]')",
    "pragma_table_info('t')",
)
COLUMNS = (
    "id",
    "a",
    "b",
    "c",
    "d",
    "k",
    "v",
    "x",
    "y",
    "title",
    "body",
    "name",
    "sql",
    "answer",
    "rowid",
    "value",
    "rank",
)
OF_TABLE = {
    "t": ("id", "a", "b", "c", "d"),
    "u": ("k", "v", "t"),
    "n": ("id", "x", "y"),
    "w": ("a", "times"),
    "f": ("title", "body", "rowid", "f", "rank"),
    "messages": ("id", "payload"),
    "sqlite_schema": ("name", "sql", "type"),
}
LITERALS = (
    "NULL", "0", "1", "-1", "9223372036854775807", "9223372036854775808", "1.5", "1e300", "-0.0",
    "'a'", "''", "'é😀'",
    "x'00ff'", "x''", "'{\"a\":[1,2]}'", "'2026-01-01'", "'%a_'", "'_forge_command'", "zeroblob(100)",
    "CURRENT_TIMESTAMP",
)  # fmt: skip
OPERATORS = (
    "+", "-", "*", "/", "%", "||", "=", "<>", "<", ">=", "AND", "OR", "IS", "IS NOT", "LIKE", "GLOB", "MATCH", "->",
    "->>", "<<", "&", "COLLATE nocase =", "IS NOT DISTINCT FROM", "REGEXP",
)  # fmt: skip
TYPES = ("INTEGER", "TEXT", "REAL", "BLOB", "ANY", "", "VARCHAR(10)")
NOT_ALLOWED = (
    "load_extension",
    "fts3_tokenizer",
    "sqlite_log",
    "json_patch",
    "readfile",
    "sqlite_rename_table",
    "subtype",
)


def _functions() -> list[tuple[str, str, list[int]]]:
    """Return name, kind, and how many arguments it takes, of each function that users may call."""
    db = apsw.Connection(":memory:")
    found: dict[str, tuple[str, str, list[int]]] = {}
    for name, kind, count in db.execute("SELECT name, type, narg FROM pragma_function_list ORDER BY name, type, narg"):
        if name in FUNCTIONS and name[0] != "-" and not name.startswith("current_"):
            counts = [count] if count >= 0 else [1, 2, 3]
            found.setdefault(name, (name, kind, []))[2].extend(counts)
    db.close()
    return list(found.values())


class Grammar:
    """Statements from a seed; the same ones each time."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._pragmas = pragmas()
        self._scope: list[str] = []
        self._functions = _functions()

    def statement(self) -> str:
        """Return the next one."""
        self._scope = []
        made = self._weighted(
            (30, self._select),
            (12, self._insert),
            (8, self._update),
            (6, self._delete),
            (12, self._ddl),
            (4, self._pragma),
            (3, self._recursive),
            (5, lambda: self._pick((*OUTSIDE, *OURS, *SCHEMA))),
        )
        if self._one_in(12):
            made = f"EXPLAIN {self._pick(('', 'QUERY PLAN '))}{made}"
        return self._mangled(made) if self._one_in(6) else made

    def _pick(self, choices: "tuple[str, ...] | list[str]") -> str:
        return self._random.choice(choices)

    def _one_in(self, times: int) -> bool:
        return self._random.randrange(times) == 0

    def _weighted(self, *choices: "tuple[int, object]") -> str:
        makers = [maker for _, maker in choices]
        maker = self._random.choices(makers, [weight for weight, _ in choices])[0]
        assert callable(maker)
        return str(maker())

    def _many(self, maker: object, most: int = 3) -> str:
        assert callable(maker)
        return ", ".join(str(maker()) for _ in range(self._random.randint(1, most)))

    def _name(self) -> str:
        return self._pick(TABLES)

    def _column(self) -> str:
        """Return a column: mostly one that is there."""
        return self._pick(COLUMNS) if not self._scope or self._one_in(20) else self._pick(self._scope)

    def _plain_column(self, table: str) -> str:
        return self._pick(COLUMNS if self._one_in(20) else OF_TABLE.get(table, COLUMNS))

    def _see(self, tables: list[str]) -> None:
        self._scope = [f"{table}.{column}" for table in tables for column in OF_TABLE.get(table, ())]

    def _expression(self, depth: int = 3) -> str:
        if depth == 0 or self._one_in(3):
            return self._pick((self._column(), self._pick(LITERALS), self._pick(LITERALS)))
        below = depth - 1
        return self._weighted(
            (6, lambda: f"({self._expression(below)} {self._pick(OPERATORS)} {self._expression(below)})"),
            (6, lambda: self._call(below)),
            (1, lambda: f"CAST({self._expression(below)} AS {self._pick(TYPES) or 'ANY'})"),
            (1, lambda: f"CASE WHEN {self._expression(below)} THEN {self._expression(below)} END"),
            (1, lambda: f"({self._select(below, 1)})"),
            (1, lambda: f"EXISTS ({self._select(below)})"),
            (1, lambda: f"{self._expression(below)} IN ({self._select(below, 1)})"),
            (1, lambda: f"NOT {self._expression(below)}"),
            (1, lambda: f"{self._expression(below)} BETWEEN {self._expression(below)} AND {self._expression(below)}"),
        )

    def _call(self, depth: int) -> str:
        name, kind, counts = self._random.choice(self._functions)
        if self._one_in(60):
            name = self._pick(NOT_ALLOWED)
        count = self._random.randrange(4) if self._one_in(20) else self._random.choice(counts)
        arguments = ", ".join(self._expression(depth) for _ in range(count))
        window = f" OVER ({self._pick(('', 'ORDER BY 1', 'PARTITION BY 1 ORDER BY 2'))})"
        return f"{name}({arguments}){window if kind == 'w' and self._one_in(2) else ''}"

    def _select(self, depth: int = 3, columns: int = 0) -> str:
        below = max(0, depth - 1)
        outer = self._scope
        sources = self._random.sample(TABLES, self._random.choice((0, 1, 1, 1, 1, 2)))
        self._see(sources)
        if sources and depth and self._one_in(12):
            sources[0] = f"({self._select(below)}) AS q"
        everything = sources and not columns and self._one_in(4)
        parts = [
            f"WITH z AS ({self._select(0)})" if depth and self._one_in(10) else "",
            self._pick(("SELECT", "SELECT", "SELECT DISTINCT")),
            "*"
            if everything
            else ", ".join(self._expression(depth) for _ in range(columns or self._random.randint(1, 3))),
            f"FROM {self._pick((', ', ' JOIN ', ' LEFT JOIN ', ' NATURAL JOIN ')).join(sources)}" if sources else "",
            f"WHERE {self._expression(below)}" if self._one_in(2) else "",
            f"GROUP BY {self._expression(0)} HAVING {self._expression(below)}" if self._one_in(8) else "",
            f"{self._pick(('UNION', 'UNION ALL', 'EXCEPT'))} {self._select(0)}" if self._one_in(12) and depth else "",
            f"ORDER BY {self._expression(0)}" if self._one_in(6) and depth > 1 else "",
            f"LIMIT {self._pick(('1', '10', '-1', 'a'))}" if self._one_in(4) and depth > 1 else "",
        ]
        self._scope = outer
        return " ".join(part for part in parts if part)

    def _recursive(self) -> str:
        step = self._pick(("x + 1", "x || x", "zeroblob(10000)", "random()", "-x"))
        limit = self._pick(("", " LIMIT 100", " LIMIT 1000", " WHERE x < 100", " LIMIT 50"))
        what = self._pick(("count(*)", "max(x)", "group_concat(x)", "json_group_array(x)", "x"))
        union = self._pick(("UNION", "UNION ALL"))
        return f"WITH RECURSIVE c(x) AS (SELECT 1 {union} SELECT {step} FROM c{limit}) SELECT {what} FROM c"

    def _insert(self) -> str:
        table = self._name()
        self._see([])
        columns = [self._plain_column(table) for _ in range(self._random.choice((1, 1, 2, 3)))]
        values = ", ".join(self._pick(LITERALS) if self._one_in(2) else self._expression(2) for _ in columns)
        head = self._pick(("INSERT", "INSERT", "REPLACE", "INSERT OR IGNORE", "INSERT OR ABORT"))
        rows = self._pick((f"VALUES ({values})", f"SELECT {values} FROM t", self._select(2, len(columns))))
        upsert = " ON CONFLICT DO UPDATE SET v = excluded.v" if self._one_in(12) else ""
        return f"{head} INTO {table} ({', '.join(columns)}) {rows}{upsert}{self._returning(table)}"

    def _update(self) -> str:
        table = self._name()
        self._see([table])
        where = f" WHERE {self._expression()}" if not self._one_in(3) else ""
        return f"UPDATE {table} SET {self._plain_column(table)} = {self._expression()}{where}{self._returning(table)}"

    def _delete(self) -> str:
        table = self._name()
        self._see([table])
        return f"DELETE FROM {table} WHERE {self._expression()}{self._returning(table)}"

    def _returning(self, table: str) -> str:
        self._see([table])
        return f" RETURNING {self._many(self._expression)}" if self._one_in(5) else ""

    def _ddl(self) -> str:
        name = self._pick(("x", "y", "t", "f", "x", "y", "leases", "_forge_x", "temp.x"))
        table = self._pick(("t", "u", "n", "x", "y", "messages", "f", "_forge_position"))
        self._scope = list(OF_TABLE.get(table, ()))
        definition = f"{self._pick(COLUMNS)} {self._pick(TYPES)}{self._constraint()}"
        return self._weighted(
            (4, lambda: f"CREATE TABLE {name} ({definition}, z){self._pick(('', '', ' STRICT', ' WITHOUT ROWID'))}"),
            (2, lambda: f"CREATE TABLE {name} AS {self._select()}"),
            (2, lambda: f"CREATE VIEW {name} AS {self._select()}"),
            (3, lambda: f"CREATE INDEX {name}_i ON {table} ({self._expression(1)}) WHERE {self._expression(1)}"),
            (3, lambda: f"CREATE TRIGGER {name}_t AFTER {self._event()} ON {table} BEGIN {self._body()}; END"),
            (2, lambda: f"CREATE VIRTUAL TABLE {name} USING fts5(a, b{self._option()})"),
            (4, lambda: f"ALTER TABLE {table} ADD COLUMN {definition}"),
            (2, lambda: f"ALTER TABLE {table} RENAME COLUMN {self._column()} TO {self._pick(COLUMNS)}"),
            (2, lambda: f"ALTER TABLE {table} RENAME TO {name}"),
            (2, lambda: f"ALTER TABLE {table} DROP COLUMN {self._column()}"),
            (
                3,
                lambda: (
                    f"DROP {self._pick(('TABLE', 'VIEW', 'INDEX', 'TRIGGER'))} {self._pick((name, table, f'{name}_i'))}"
                ),
            ),
            (1, lambda: self._pick(("ANALYZE", "REINDEX", f"ANALYZE {table}", f"REINDEX {table}"))),
        )

    def _constraint(self) -> str:
        return self._weighted(
            (4, lambda: ""),
            (1, lambda: " PRIMARY KEY AUTOINCREMENT"),
            (1, lambda: " UNIQUE NOT NULL"),
            (1, lambda: f" CHECK ({self._expression(2)})"),
            (1, lambda: f" DEFAULT ({self._expression(1)})"),
            (1, lambda: f" AS ({self._expression(2)})"),
            (1, lambda: f" REFERENCES {self._pick(TABLES[:6])} ON DELETE CASCADE"),
        )

    def _event(self) -> str:
        return self._pick(("INSERT", "UPDATE", "DELETE", "UPDATE OF a"))

    def _body(self) -> str:
        return self._weighted((3, self._insert), (2, self._update), (2, self._delete), (1, self._select))

    def _option(self) -> str:
        return self._pick(
            ("", ", content=''", ", content='t'", ", content='_forge_command'", ", prefix='2'", ", tokenize='trigram'")
        )

    def _pragma(self) -> str:
        name = self._pick(self._pragmas)
        return self._pick(
            (f"PRAGMA {name}", f"PRAGMA {name} = {self._pick(LITERALS)}", f"PRAGMA {name}({self._name()})")
        )

    def _mangled(self, sql: str) -> str:
        tokens = sql.split(" ")
        at = self._random.randrange(len(tokens))
        match self._random.randrange(5):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, self._random.choice(tokens))
            case 2:
                tokens[at] = self._pick(
                    ("(", ")", ";", "'", '"', "/*", "--", "\0", "?1", ":a", "SELECT", "é", "--\n", "; DROP TABLE t")
                )
            case 3:
                other = self._random.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case _:
                tokens[at] = tokens[at] * self._random.randrange(2, 50)
        return " ".join(tokens)
