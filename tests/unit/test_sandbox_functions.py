"""The bounded functions give what SQLite's own give, and never take long."""

from collections.abc import Iterator
from typing import Any

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.functions import FUNCTIONS, install
from projectors.document.sql.sandbox import configure_writer

BOUNDED = {"instr": 2, "replace": 3, "trim": 2, "ltrim": 2, "rtrim": 2, "unhex": 2, "jsonb_patch": 2}

# Few characters, so that texts are found in each other.
texts = st.text(st.sampled_from("aAbB01 é€😀\0-%"), max_size=12)
values = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-20, 20),
    st.floats(allow_nan=False),
    texts,
    texts.map(str.encode),
    st.binary(max_size=4),
    st.sampled_from(['{"a":1}', '{"a":null,"b":{"c":[1,2]}}', "[1]", "{a:1,}", "1e3", "nothing"]),
)


@pytest.fixture(scope="module")
def bounded() -> Iterator[apsw.Connection]:
    """A connection with the replacements."""
    db = apsw.Connection(":memory:")
    install(db, SqlBounds())
    yield db
    db.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[apsw.Connection]:
    """A connection as SQLite makes it."""
    db = apsw.Connection(":memory:")
    yield db
    db.close()


def outcome(db: apsw.Connection, name: str, arguments: tuple[Any, ...]) -> object:
    """Return type and bytes of what the function gives, or the kind of its error."""
    marks = ", ".join(f"?{number}" for number in range(1, len(arguments) + 1))
    try:
        return db.execute(f"SELECT typeof(x), hex(x), x FROM (SELECT {name}({marks}) AS x)", arguments).fetchall()
    except (apsw.Error, UnicodeDecodeError) as error:
        return type(error)


@given(st.sampled_from(sorted(BOUNDED)), st.tuples(values, values, values))
def test_a_bounded_function_gives_what_sqlites_own_gives(
    bounded: apsw.Connection, plain: apsw.Connection, name: str, arguments: tuple[Any, ...]
) -> None:
    """PR6, PR2: on values of every type; other programs read what was indexed with it."""
    used = arguments[: BOUNDED[name]]
    assert outcome(bounded, name, used) == outcome(plain, name, used)


@given(texts, texts, texts, st.integers(1, 3000))
def test_it_does_so_on_long_texts_too(
    bounded: apsw.Connection, plain: apsw.Connection, text: str, part: str, other: str, times: int
) -> None:
    """The ways that the replacements take for short and long values agree."""
    long = text * times + part
    for name, arguments in (
        ("instr", (long, part)),
        ("instr", (long.encode(), part.encode())),
        ("replace", (long, part, other)),
        ("trim", (long, part)),
        ("ltrim", (long, part)),
        ("rtrim", (long, part)),
    ):
        assert outcome(bounded, name, arguments) == outcome(plain, name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("instr", ("a" * (8 << 20), "a" * (4 << 20) + "b")),
        ("replace", ("a" * (8 << 20), "a" * (4 << 20) + "b", "")),
        ("trim", ("a" * (8 << 20), "ba" * (1 << 20))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_long_arguments_cost_their_length_not_its_square(
    bounded: apsw.Connection, name: str, arguments: tuple[str, ...]
) -> None:
    """P2.6, PR7: SQLite's own would run for hours here, and nothing could interrupt it."""
    assert outcome(bounded, name, arguments) is not apsw.TooBigError


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("instr", (b"a" * (8 << 20), "a" * (4 << 20))),
        ("replace", ("a" * (8 << 20), "a", "b" * (8 << 20))),
        ("replace", (b"a" * (8 << 20), "a" * (4 << 20), "b")),
        ("trim", ("a" * (8 << 20), "".join(map(chr, range(1, 10_000))))),
        ("unhex", ("-" * (4 << 20), "ab" * (1 << 20))),
        ("jsonb_patch", ("{}", "1" * (8 << 20))),
    ],
)
def test_what_would_be_too_costly_is_refused_at_once(
    bounded: apsw.Connection, name: str, arguments: tuple[Any, ...]
) -> None:
    """PR7: an error of size, before anything is computed."""
    assert outcome(bounded, name, arguments) is apsw.TooBigError


def test_bounded_functions_stand_in_schemas_that_any_sqlite_can_read() -> None:
    """PR2: in indexes, generated columns and checks; a plain SQLite finds the file whole."""
    db = apsw.Connection(":memory:")
    configure_writer(db, SqlBounds())
    db.execute(
        """
        CREATE TABLE t (a TEXT CHECK (instr(a, '!') = 0), b AS (replace(a, 'é', 'e')) STORED, c AS (trim(a, 'x')));
        CREATE INDEX t_c ON t (c);
        CREATE INDEX t_a ON t (instr(a, 'é')) WHERE unhex(a, '-') IS NULL;
        """
    )
    db.executemany("INSERT INTO t (a) VALUES (?)", [("xéx",), ("caféxx",), ("00-ff",), ("",)])
    plain = apsw.Connection("")
    plain.deserialize("main", db.serialize("main"))
    assert plain.execute("PRAGMA integrity_check").get == "ok"
    assert plain.execute("SELECT a FROM t WHERE c = 'café'").get == "caféxx"
    with pytest.raises(apsw.ConstraintError):
        db.execute("INSERT INTO t (a) VALUES ('!')")
    plain.close()
    db.close()


def test_the_functions_that_users_may_call_are_there() -> None:
    """D.2: the list names functions of the SQLite that is bundled, and none by mistake."""
    db = apsw.Connection(":memory:")
    there = {name for (name,) in db.execute("SELECT DISTINCT name FROM pragma_function_list")}
    db.close()
    assert there >= FUNCTIONS
