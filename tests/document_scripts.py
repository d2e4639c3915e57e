"""Random SQL over random schemas: every feature whose replay has to be exact, mixed with mistakes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import apsw

from schemas.document import Statement

WORDS = ("alpha", "beta", "gamma", "delta", "it's", "ünïcode", "", "NULL", "42", "a b c")


@dataclass(slots=True)
class Script:
    """Makes statements for one document; it remembers what it made, and is often right about what exists."""

    random: Random
    tables: dict[str, list[str]] = field(default_factory=dict)  # name -> columns that can be written
    others: dict[str, list[str]] = field(default_factory=dict)  # kind -> names of indexes, views, triggers, fts tables
    count: int = 0

    def batch(self) -> tuple[Statement, ...]:
        """Return the statements of one command."""
        return tuple(self.statement() for _ in range(self.random.choice((1, 1, 1, 2, 3, 8))))

    def statement(self) -> Statement:
        """Return one statement; most of them work."""
        choice = self.random.random()
        if len(self.tables) < 2 or choice < 0.12:
            return Statement(sql=self.random.choice(self._creations())())
        if choice < 0.30:
            return Statement(sql=self.random.choice(self._schema_changes())())
        return self.random.choice(
            (self._insert, self._insert, self._insert, self._update, self._delete, self._upsert, self._odd)
        )()

    def look(self, db: apsw.Connection) -> None:
        """Learn what exists: commands that were refused made nothing."""
        shadows = {row[0] for row in db.execute("SELECT name FROM pragma_table_list WHERE type = 'shadow'")}
        found = [tuple(map(str, row)) for row in db.execute("SELECT type, name, sql FROM sqlite_schema")]
        found = [one for one in found if not one[1].startswith(("_forge", "sqlite_")) and one[1] not in shadows]
        self.others = {kind: [n for k, n, _ in found if k == kind] for kind in ("index", "trigger", "view")}
        self.others["search"] = [name for _, name, sql in found if "content=" in sql]
        self.tables = {
            name: [
                str(row[0]) for row in db.execute("SELECT name FROM pragma_table_xinfo(?) WHERE hidden = 0", (name,))
            ]
            for kind, name, _ in found
            if kind == "table" and name not in self.others["search"]
        }

    def _name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def _any(self) -> str:
        return self.random.choice(list(self.tables))

    def _column(self, table: str) -> str:
        return self.random.choice(self.tables[table] or ["x"])

    def _value(self) -> str:
        r = self.random
        return r.choice(
            (
                "NULL",
                str(r.randint(-3, 12)),
                str(r.choice((2**53 + 1, -(2**63), 2**63 - 1))),
                repr(r.choice((0.5, -0.0, 1e300, 1.0, 3.25))),
                "'" + r.choice(WORDS).replace("'", "''") + "'",
                "x'00ff'",
                f"zeroblob({r.randint(0, 40)})",
                "random()",
                "randomblob(4)",
                "datetime('now')",
                "julianday('now')",
                "9e999",
                "json_object('k', random())",
            )
        )

    def _creations(self) -> tuple[Callable[[], str], ...]:
        return (
            self._create_plain,
            self._create_plain,
            self._create_child,
            self._create_as,
            self._create_search,
            self._create_content_search,
        )

    def _create_plain(self) -> str:
        name = self._name("t")
        columns, sql = self.random.choice(
            (
                (["id", "a", "b"], "(id INTEGER PRIMARY KEY, a, b TEXT DEFAULT (hex(randomblob(2))))"),
                (["a", "b"], "(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, b)"),
                (["k", "a"], "(k TEXT PRIMARY KEY, a)"),
                (["k", "l", "a"], "(k TEXT, l INT, a NUMERIC, PRIMARY KEY (l, k))"),
                (["k", "a", "b"], "(k TEXT PRIMARY KEY, a REAL, b BLOB) WITHOUT ROWID"),
                (["a", "b", "c"], "(a, b, c)"),
                (["id", "a", "b"], "(id INTEGER PRIMARY KEY, a ANY, b INT) STRICT"),
                (["a", "b"], "(a, b, g AS (a || '!') STORED, h AS (length(b)), UNIQUE (b))"),
                (["k", "a"], "(k BLOB NOT NULL PRIMARY KEY ON CONFLICT REPLACE, a CHECK (a IS NOT 7))"),
                (["id", "a"], "(id INTEGER PRIMARY KEY DESC, a COLLATE NOCASE UNIQUE)"),
            )
        )
        self.tables[name] = columns
        return f"CREATE TABLE {self.random.choice(('', 'IF NOT EXISTS '))}{name} {sql} -- {self.random.choice(WORDS)}"

    def _create_child(self) -> str:
        name = self._name("t")
        parents = [table for table, columns in self.tables.items() if "id" in columns]
        if not parents:
            return self._create_plain()
        action = self.random.choice(("CASCADE", "SET NULL", "SET DEFAULT", "RESTRICT", "NO ACTION"))
        deferred = self.random.choice(("", "DEFERRABLE INITIALLY DEFERRED"))
        self.tables[name] = ["p", "a"]
        return (
            f"CREATE TABLE {name} (n INTEGER PRIMARY KEY, p REFERENCES {self.random.choice(parents)}(id) "
            f"ON DELETE {action} ON UPDATE {action} {deferred}, a)"
        )

    def _create_as(self) -> str:
        name, source = self._name("t"), self._any() if self.tables else "none"
        self.tables[name] = ["x", "y"]
        return f"CREATE TABLE {name} AS SELECT rowid * 2 AS x, random() AS y, * FROM {source} ORDER BY random()"

    def _create_search(self) -> str:
        name = self._name("f")
        self.tables[name] = ["a", "b"]
        options = self.random.choice(("", ", prefix='2 3'", ", tokenize='porter'", ", detail=column", ", columnsize=0"))
        return f"CREATE VIRTUAL TABLE {name} USING fts5(a, b{options})"

    def _create_content_search(self) -> str:
        tables = [table for table, columns in self.tables.items() if {"a", "b"} <= set(columns) and table[0] == "t"]
        if not tables:
            return self._create_search()
        self.others.setdefault("search", []).append(name := self._name("c"))
        return f"CREATE VIRTUAL TABLE {name} USING fts5(a, b, content='{self.random.choice(tables)}')"

    def _schema_changes(self) -> tuple[Callable[[], str], ...]:
        return (
            self._rename_table,
            self._rename_column,
            self._add_column,
            self._drop_column,
            self._create_index,
            self._create_trigger,
            self._create_trigger,
            self._create_view,
            self._drop,
            self._drop_table,
            lambda: self.random.choice(("ANALYZE", "REINDEX", f"ANALYZE {self._any()}")),
            lambda: f"PRAGMA user_version = {self.random.randint(0, 9)}",
            lambda: f"PRAGMA application_id = {self.random.randint(0, 9)}",
        )

    def _rename_table(self) -> str:
        old, new = self._any(), self._name("t")
        self.tables[new] = self.tables.pop(old)
        return f"ALTER TABLE {old} RENAME TO {new}"

    def _rename_column(self) -> str:
        table, new = self._any(), self._name("c")
        columns = self.tables[table]
        old = self._column(table)
        if old in columns:
            columns[columns.index(old)] = new
        return f"ALTER TABLE {table} RENAME COLUMN {old} TO {new}"

    def _add_column(self) -> str:
        table, new = self._any(), self._name("c")
        self.tables[table].append(new)
        kind = self.random.choice(
            ("", "INT DEFAULT 5", "TEXT NOT NULL DEFAULT 'x'", f"AS ({self._column(table)} || '?')", "CHECK (1)")
        )
        return f"ALTER TABLE {table} ADD COLUMN {new} {kind}"

    def _drop_column(self) -> str:
        table = self._any()
        column = self._column(table)
        if len(self.tables[table]) > 1 and column in self.tables[table]:
            self.tables[table].remove(column)
        return f"ALTER TABLE {table} DROP COLUMN {column}"

    def _create_index(self) -> str:
        self.others.setdefault("index", []).append(name := self._name("i"))
        table = self._any()
        one, two = self._column(table), self._column(table)
        what = self.random.choice(
            (one, f"{one}, {two} DESC", f"lower({one})", f"{one} COLLATE NOCASE", f"instr({one}, 'a')")
        )
        where = self.random.choice(("", "", f" WHERE {two} IS NOT NULL"))
        return f"CREATE {self.random.choice(('', '', 'UNIQUE '))}INDEX {name} ON {table} ({what}){where}"

    def _create_trigger(self) -> str:
        self.others.setdefault("trigger", []).append(name := self._name("r"))
        table, target = self._any(), self._any()
        when = self.random.choice(("AFTER", "BEFORE"))
        event = self.random.choice(("INSERT", "UPDATE", "DELETE"))
        body = self.random.choice(
            (
                f"INSERT INTO {target} ({self._column(target)}) VALUES (random())",
                f"INSERT INTO {target} ({self._column(target)}) VALUES (strftime('%f', 'now'))",
                f"UPDATE {target} SET {self._column(target)} = hex(randomblob(3)) WHERE rowid % 3 = 0",
                f"DELETE FROM {target} WHERE rowid % 5 = 0",
                "SELECT RAISE(IGNORE)",
                "SELECT RAISE(ABORT, 'no') WHERE random() % 4 = 0",
            )
        )
        return f"CREATE TRIGGER {name} {when} {event} ON {table} BEGIN {body}; END"

    def _create_view(self) -> str:
        self.others.setdefault("view", []).append(name := self._name("v"))
        return f"CREATE VIEW {name} AS SELECT * FROM {self._any()}"

    def _drop(self) -> str:
        kinds = [kind for kind in ("index", "trigger", "view") if self.others.get(kind)]
        if not kinds:
            return self._drop_table()
        kind = self.random.choice(kinds)
        names = self.others[kind]
        return f"DROP {kind.upper()} IF EXISTS {names.pop(self.random.randrange(len(names)))}"

    def _drop_table(self) -> str:
        table = self._any()
        if len(self.tables) > 3:
            del self.tables[table]
        return f"DROP TABLE {table}"

    def _insert(self) -> Statement:
        table = self._any()
        columns = self.tables[table]
        some = self.random.sample(columns, self.random.randint(1, len(columns))) if columns else ["x"]
        verb = self.random.choice(("INSERT", "INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"))
        if self.random.random() < 0.2:
            count = self.random.choice((2, 20, 60, 200))
            source = f"WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count}) "
            values = ", ".join(self.random.choice(("i", "i || 'x'", "random()", "i % 7")) for _ in some)
            return Statement(sql=f"{source}{verb} INTO {table} ({', '.join(some)}) SELECT {values} FROM n")
        rows = ", ".join(
            "(" + ", ".join(self._value() for _ in some) + ")" for _ in range(self.random.choice((1, 1, 2, 5)))
        )
        returning = self.random.choice(("", "", " RETURNING *"))
        return Statement(sql=f"{verb} INTO {table} ({', '.join(some)}) VALUES {rows}{returning}")

    def _upsert(self) -> Statement:
        table = self._any()
        column = self._column(table)
        other = self._column(table)
        insert = f"INSERT INTO {table} ({column}) VALUES ({self._value()})"
        return Statement(sql=f"{insert} ON CONFLICT DO UPDATE SET {other} = {self._value()}")

    def _update(self) -> Statement:
        table = self._any()
        column, other = self._column(table), self._column(table)
        value = self.random.choice(
            (self._value(), other, f"{column} || 'z'", f"coalesce({other}, 0) + 1", "rowid + 100")
        )
        where = self.random.choice(("", f" WHERE {other} = {self._value()}", " WHERE rowid % 2", " WHERE random() % 2"))
        verb = self.random.choice(("UPDATE", "UPDATE OR REPLACE", "UPDATE OR IGNORE"))
        return Statement(sql=f"{verb} {table} SET {column} = {value}{where}")

    def _delete(self) -> Statement:
        table = self._any()
        where = self.random.choice(("", f" WHERE {self._column(table)} > {self._value()}", " WHERE rowid % 2 = 1"))
        return Statement(sql=f"DELETE FROM {table}{where}")

    def _odd(self) -> Statement:
        table = self._any()
        search = [name for name in self.tables if name.startswith("f")] + self.others.get("search", [])
        sql = self.random.choice(
            (
                f"UPDATE {table} SET rowid = rowid + {self.random.randint(-2, 5)}",
                f"INSERT INTO {table} (rowid, {self._column(table)}) VALUES ({self.random.randint(-9, 99)}, 5)",
                "DELETE FROM sqlite_sequence",
                "UPDATE sqlite_sequence SET seq = seq + 10",
                "nonsense",
                f"SELECT count(*) FROM {table}",
                *(f"INSERT INTO {name} ({name}) VALUES ('{do}')" for name in search for do in ("optimize", "rebuild")),
            )
        )
        return Statement(sql=sql)
