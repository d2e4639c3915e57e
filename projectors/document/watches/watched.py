"""The watches of one document: which of them a commit concerns, and which wait to be evaluated."""

from collections.abc import Callable, Iterable
from itertools import chain

from projectors.document.watches.touches import Touches
from projectors.document.watches.watch import Encode, Subscription, Watch, WatchKey
from schemas.document import Statement
from schemas.ids import Position

TOGETHER_MAX = 32  # quick watches that are evaluated in one turn of a thread, in one snapshot


class WatchedDocument:
    """One document that is watched, or was a while ago.

    A watch that is not stale is found under each table that it reads, or among those that any commit concerns.
    """

    def __init__(
        self,
        db_id: str,
        encode: Encode,
        look: Callable[["WatchedDocument"], None],
        leave: Callable[["WatchedDocument", Subscription], None],
    ) -> None:
        self.db_id = db_id
        self.encode = encode
        self.watches: dict[WatchKey, Watch] = {}
        self.due: dict[Watch, None] = {}
        self.running = 0
        self.touches: Touches | None = None
        self._by_table: dict[str, set[Watch]] = {}
        self._any: set[Watch] = set()
        self._look = look
        self._leave = leave

    def look(self) -> None:
        """Find out what happened without news."""
        self._look(self)

    def leave(self, subscription: Subscription) -> None:
        """Forget a follower."""
        self._leave(self, subscription)

    def add(self, key: WatchKey, statement: Statement) -> Watch:
        """Return a new watch; it is due."""
        watch = self.watches[key] = Watch(key, statement)
        self.due[watch] = None
        return watch

    def remove(self, watch: Watch) -> None:
        """Forget a watch; one that is being evaluated is not waited for."""
        self.watches.pop(watch.key, None)
        self.due.pop(watch, None)
        self._any.discard(watch)
        for table in _places(watch):
            if found := self._by_table.get(table):
                found.discard(watch)
                if not found:
                    del self._by_table[table]

    def heard(self, position: Position, tables: frozenset[str] | None) -> None:
        """Take in a commit: what it concerns is due."""
        if self.touches is None:  # nothing was evaluated yet
            self.touches = Touches(position)
            return
        before = self.touches.heard
        if position <= before:
            return  # see `Touches.note`
        tables = self.touches.note(position, tables)
        concerned = self._any
        self._any = set()
        if tables is None:
            concerned = concerned.union(*self._by_table.values())
            self._by_table.clear()
        else:
            concerned = concerned.union(*(self._by_table.pop(table, ()) for table in tables))
        for watch in concerned:
            self._concern(watch, position, before)

    def _concern(self, watch: Watch, position: Position, before: Position) -> None:
        if watch.stale:
            return
        assert watch.evaluated is not None
        if watch.evaluated >= position:  # its evaluation was ahead of the news
            self._index(watch)
            return
        watch.stale = True
        watch.covered = max(before, watch.evaluated)
        self.due[watch] = None

    def _index(self, watch: Watch) -> None:
        if watch.tables is None:
            self._any.add(watch)
        for table in _places(watch):
            self._by_table.setdefault(table, set()).add(watch)

    def take(self) -> list[Watch]:
        """Return watches to evaluate in one go: one, or several that were quick the last time."""
        taken: list[Watch] = []
        for watch in self.due:
            if taken and not (watch.quick and taken[0].quick):
                break
            taken.append(watch)
            if len(taken) == TOGETHER_MAX:
                break
        for watch in taken:
            del self.due[watch]
        return taken

    def evaluated(self, watch: Watch, position: Position, tables: frozenset[str] | None) -> None:
        """Note that a watch was evaluated at `position`; it is due again if what it read was touched since."""
        watch.evaluated = watch.covered = position
        watch.tables = tables
        if self.touches is None:
            self.touches = Touches(position)
        watch.stale = self.touches.changed(tables, position)
        if watch.stale:
            self.due[watch] = None
        else:
            self._index(watch)

    def subscriptions(self) -> list[Subscription]:
        """Return everybody who follows a watch of this document."""
        return list(chain.from_iterable(watch.subscriptions for watch in self.watches.values()))


def _places(watch: Watch) -> Iterable[str]:
    """Return under which tables a watch is found; one that reads none has a place too, for changes of the schema."""
    return () if watch.tables is None else watch.tables or ("",)
