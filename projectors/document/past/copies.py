"""Copies of documents as they were at a position: files that never change, kept on disk within a bound."""

import os
import re
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from events.cursor import Cursor
from projectors.projection import remove_database
from schemas.ids import InvalidId, Position, escape, unescape

_NAME = re.compile(r"(\d+\.\d+)_([0-9a-f]+)_(.+)\.db")


class Moment(NamedTuple):
    """A document at a position; the hash there tells its history from any other."""

    db_id: str
    position: Position
    hash: str


@dataclass(slots=True, eq=False)
class Copy:
    """One copy: where it lies, how large it is (0: not made yet), and how many use it now."""

    moment: Moment
    path: Path
    size_bytes: int = 0
    users: int = field(default=0, repr=False)


class Copies:
    """The copies in a folder; those that were used least recently go when there is no space. For the event loop."""

    def __init__(self, directory: Path, version: str, *, bytes_max: int) -> None:
        """Find what is there, and remove what is unfinished or was folded by another `version`."""
        self._directory = directory
        self._version = version
        self._bytes_max = bytes_max
        self._copies: OrderedDict[Moment, Copy] = OrderedDict()
        directory.mkdir(parents=True, exist_ok=True)
        found: list[tuple[float, Copy]] = []
        for path in directory.glob("*/*"):
            if (copy := self._read(path)) is None:
                path.unlink()
            else:
                found.append((path.stat().st_mtime, copy))
        self._copies.update((copy.moment, copy) for _, copy in sorted(found, key=lambda pair: pair[0]))
        self.make_room()

    @property
    def size_bytes(self) -> int:
        """How much space all of them take."""
        return sum(copy.size_bytes for copy in self._copies.values())

    @contextmanager
    def use(self, moment: Moment) -> Iterator[Copy]:
        """Hold the copy at `moment`, made or not; it is not removed meanwhile."""
        copy = self._copies.get(moment)
        if copy is None:
            copy = self._copies[moment] = Copy(moment, self._path(moment))
        self._copies.move_to_end(moment)
        copy.users += 1
        try:
            yield copy
        finally:
            copy.users -= 1
            if copy.size_bytes:
                with suppress(FileNotFoundError):
                    os.utime(copy.path)  # the order outlives a restart
            elif not copy.users:
                self._copies.pop(moment, None)
            self.make_room()

    def nearest(self, db_id: str, position: Position) -> Moment | None:
        """Return the newest copy of a document at or before `position` that is made."""
        made = (
            moment
            for moment, copy in self._copies.items()
            if moment.db_id == db_id and moment.position <= position and copy.size_bytes
        )
        return max(made, key=lambda moment: moment.position, default=None)

    def temporary(self, moment: Moment) -> Path:
        """Return where a copy is made before it gets its place; swept at the next start if it is left over."""
        path = self._path(moment)
        path.parent.mkdir(exist_ok=True)
        return path.with_suffix(".part")

    def finish(self, made: Path, cursor: Cursor, db_id: str) -> None:
        """Take over a finished file as the copy at `cursor`."""
        moment = Moment(db_id, cursor.position, cursor.hash)
        copy = self._copies.setdefault(moment, Copy(moment, self._path(moment)))
        os.replace(made, copy.path)
        copy.size_bytes = copy.path.stat().st_size
        self.make_room()

    def forget(self, moment: Moment) -> None:
        """Remove a copy that is of no use; whoever has it open may go on."""
        if copy := self._copies.pop(moment, None):
            remove_database(copy.path)

    def make_room(self) -> None:
        """Remove what was used least recently until the bound is kept; nothing that is in use."""
        size = self.size_bytes
        for moment, copy in list(self._copies.items()):
            if size <= self._bytes_max:
                return
            if copy.size_bytes and not copy.users:
                size -= copy.size_bytes
                self.forget(moment)
                with suppress(OSError):  # others of the document are there
                    copy.path.parent.rmdir()

    def _path(self, moment: Moment) -> Path:
        return self._directory / escape(moment.db_id) / f"{moment.position}_{moment.hash}_{self._version}.db"

    def _read(self, path: Path) -> Copy | None:
        name = _NAME.fullmatch(path.name)
        if name is None or name[3] != self._version:
            return None
        try:
            moment = Moment(unescape(path.parent.name), Position.parse(name[1]), name[2])
        except InvalidId:
            return None
        return Copy(moment, path, path.stat().st_size)
