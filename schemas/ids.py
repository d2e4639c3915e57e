"""The strings that identify things, each with its one pattern and its one parse and format."""

import re
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import StringConstraints

CID_PATTERN = r"^[0-9a-f]{64}$"
TOKEN_LENGTH_MAX = 200  # a file name may have 255 bytes; this leaves room for suffixes such as -journal
_CID = re.compile(CID_PATTERN)
_POSITION = re.compile(r"(0|[1-9][0-9]{0,19})\.(0|[1-9][0-9]{0,19})")  # as long as 64 bits need
_DOMAIN = re.compile(r"[a-z]+")
DB_ID_PATTERN = r"^(?!\.+$)[A-Za-z0-9._-]{1,128}$"
_DB_ID = re.compile(DB_ID_PATTERN)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_ESCAPED = re.compile(r"(?:[a-z0-9-]|_[0-9a-f]{2})+")


class InvalidId(ValueError):
    """A string is not a valid identifier; the message says what is wrong."""


def _check_cid(text: str) -> str:
    if not _CID.fullmatch(text):  # match with $ would let a newline follow
        raise InvalidId("a content hash is 64 hexadecimal digits")
    return text


Cid = Annotated[str, StringConstraints(pattern=CID_PATTERN)]
"""Lowercase hex BLAKE3-256 of some bytes."""

DbId = Annotated[str, StringConstraints(min_length=1, max_length=128)]
"""The name of a document; `parse_db_id` checks one that comes from outside."""

NODE_ID_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,62}$"

NodeId = Annotated[str, StringConstraints(pattern=NODE_ID_PATTERN)]


def parse_cid(text: str) -> str:
    """Return `text` as a CID: trimmed, lowercase; raise `InvalidId` if it is not 64 hex digits."""
    return _check_cid(text.strip().lower())


def parse_db_id(text: str) -> str:
    """Return `text` if it can name a document; raise `InvalidId`."""
    if not _DB_ID.fullmatch(text) or text.endswith("\n"):
        raise InvalidId(
            "a document's name has 1 to 128 letters, digits, dots, underscores or hyphens, and is not made of dots "
            f"alone: {text[:140]!r}"
        )
    escape(text)  # capitals take three characters there
    return text


def escape(text: str) -> str:
    """Return the one escaped form of an id, safe as a NATS subject token and as a file name.

    `a-z`, `0-9` and `-` stand for themselves; every other byte of the UTF-8 form is `_` and two hex
    digits. Capitals are escaped too, because some file systems cannot tell them apart.
    """
    if not text or not text.isprintable():
        raise InvalidId("an id needs at least one character, all of them printable")
    token = "".join(c if c in _PLAIN else "".join(f"_{b:02x}" for b in c.encode()) for c in text)
    if len(token) > TOKEN_LENGTH_MAX:
        raise InvalidId(f"an id may have at most {TOKEN_LENGTH_MAX} characters when escaped, not {len(token)}")
    return token


def unescape(token: str) -> str:
    """Return the id that `escape` turned into `token`; raise `InvalidId` if there is none."""
    if not _ESCAPED.fullmatch(token):
        raise InvalidId(f"not an escaped id: {token[:80]!r}")
    raw = re.sub(rb"_([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), token.encode())
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidId(f"not an escaped id: {token[:80]!r}") from error
    if escape(text) != token:
        raise InvalidId(f"not the canonical escaped form: {token[:80]!r}")
    return text


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a partition's history stands: record `index`, counted from 1 over all epochs, written in `epoch`."""

    epoch: int
    index: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `epoch.index`, for example `1.42`."""
        if not (found := _POSITION.fullmatch(text)):
            raise InvalidId(f"a position looks like 1.42, not {text[:80]!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.epoch}.{self.index}"

    def next(self, epoch: int = 0) -> "Position":
        """Return the position after one more record by a writer of `epoch`."""
        return Position(max(self.epoch, epoch), self.index + 1)

    def follows(self, before: "Position") -> bool:
        """Say whether a record here may come directly after the one at `before`: by index, in no older epoch."""
        return self.index == before.index + 1 and self.epoch >= before.epoch


START = Position(1, 0)
"""Where a partition stands before its first record."""


@dataclass(frozen=True, slots=True)
class PartitionId:
    """One totally ordered history: a domain and, but for the two global ones, a key within it."""

    domain: str
    key: str = ""

    @classmethod
    def parse(cls, subject: str) -> Self:
        """Read a log subject, for example `forge.log.doc.notes_2ev2`."""
        match subject.split("."):
            case ["forge", "log", domain] if _DOMAIN.fullmatch(domain):
                return cls(domain)
            case ["forge", "log", domain, token] if _DOMAIN.fullmatch(domain):
                return cls(domain, unescape(token))
        raise InvalidId(f"not a log subject: {subject[:80]!r}")

    @classmethod
    def of_token(cls, token: str) -> Self:
        """Read a `token`."""
        return cls.parse(f"forge.log.{token}")

    @property
    def token(self) -> str:
        """The part of every subject that names this partition, for example `doc.notes_2ev2`."""
        return f"{self.domain}.{escape(self.key)}" if self.key else self.domain

    @property
    def subject(self) -> str:
        """The log subject, heard by nobody but the server."""
        return f"forge.log.{self.token}"

    @property
    def live_subject(self) -> str:
        """Where news of new records goes; losing it costs time, never data."""
        return f"forge.live.{self.token}"

    @property
    def command_subject(self) -> str:
        """Where the owner takes commands."""
        return f"forge.cmd.{self.token}"

    def __str__(self) -> str:
        return f"{self.domain}/{self.key}" if self.key else self.domain
