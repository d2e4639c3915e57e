"""What one statement of a user may cost."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class SqlBounds:
    """Bounds of one statement (`seconds`: of one request), and what a connection keeps for all of them."""

    seconds: float = 5.0
    rows: int = 5000
    result_bytes: int = 1 << 20
    sql_bytes: int = 1 << 20
    arguments: int = 1000
    value_bytes: int = 16 << 20  # of one value, and of one row
    pattern_bytes: int = 128  # of LIKE and GLOB, which compare it at each place of a text
    function_calls: int = 5000  # places that call functions, in views and triggers too
    full_calls: int = 32  # of them that take values of `value_bytes`; for more calls values must be shorter
    vdbe_ops: int = 50_000  # steps of a compiled statement
    expression_depth: int = 256
    compound_selects: int = 128
    temp_bytes: int = 256 << 20  # by which a statement may make the memory of SQLite grow
    heap_bytes: int = 1 << 30  # of SQLite in this process
    cache_bytes: int = 2 << 20  # of pages, per connection

    def narrowed(self, seconds: float | None = None, rows: int | None = None) -> "SqlBounds":
        """Return these bounds with less time and fewer rows, where less was asked for."""
        if seconds is None and rows is None:
            return self
        return replace(
            self,
            seconds=self.seconds if seconds is None else max(0.0, min(seconds, self.seconds)),
            rows=self.rows if rows is None else max(0, min(rows, self.rows)),
        )
