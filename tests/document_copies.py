"""Copies that other parts of Forge make of a document's records: replicas that follow, and clones."""

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random

import apsw

from events.chunk import chunk_head, chunk_record, open_chunk
from events.cursor import Cursor, Entry, Extent
from forge.replica.download import install
from forge.replica.file import ReplicaFile
from forge.replica.identity import Identity
from projectors.catch_up import fold_group
from projectors.document.past.cloning import parts_of
from projectors.projection import Projection
from schemas.document import CopyContent
from schemas.wal import encode
from tests.document_history import DB_ID, PARTITION, Document, content, new_document
from tests.vector_history import MEMORY

PART_BYTES = (60, 300, 5_000, 1 << 20)


@contextmanager
def replicated(document: Document, random: Random) -> Iterator[apsw.Connection]:
    """Bootstrap a replica somewhere, and bring it to the end in slices of any size; yield a reader of its file.

    Slices come twice, or again from further back; the file is closed and opened again in between.
    """
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory:
        path = Path(directory) / "copy.db"
        entries = document.entries
        at = random.randint(0, len(entries))
        _bootstrap(document, entries[:at], path)
        file = ReplicaFile.open(path, DB_ID)
        try:
            while file.cursor != document.projection.cursor:
                if random.random() < 0.3:
                    file.close()
                    file = ReplicaFile.open(path, DB_ID)
                at = file.cursor.position.index
                start = random.randint(0, at) if random.random() < 0.3 else at
                slice_ = entries[start : at + random.choice((1, 2, 5, 50))]
                file.fold(_received(slice_, entries[start - 1].cursor if start else Cursor.start(PARTITION), document))
        finally:
            file.close()
        with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as reader:
            yield reader


def _bootstrap(document: Document, entries: list[Entry], path: Path) -> None:
    """Make the file of a replica as its node's snapshot of that moment would."""
    (spec,) = document.domain.projections(DB_ID)
    download = path.with_name("snapshot.db")
    with closing(Projection(spec, PARTITION, download)) as snapshot:
        fold_group(document.domain, [snapshot], entries)
    install(download, path, "http://127.0.0.1", Identity.new("file"))


def _received(entries: list[Entry], after: Cursor, document: Document) -> list[Entry]:
    """Send records as a chunk, and read it."""
    end = document.projection.cursor.position
    head = chunk_head(PARTITION, after, entries, Extent(document.entries[0].cursor.position, end), eof=False)
    return open_chunk(b"".join(encode(head, [chunk_record(entry) for entry in entries])), PARTITION, after).entries


@contextmanager
def cloned(document: Document, records: int, random: Random) -> Iterator[Document]:
    """Clone a document as it was after so many records, in parts of any size; yield the clone.

    Some parts come twice, and a clone may be begun again from the part that it has come to.
    """
    part_bytes = random.choice(PART_BYTES)
    with new_document() as past, new_document(document.migrations) as clone:
        for entry in document.entries[:records]:
            fold_group(past.domain, [past.projection], [entry])
        position = str(past.projection.cursor.position)
        begun = random.randint(0, 5)
        for first in (0, begun):
            for part in parts_of(past.projection.path, first, part_bytes=part_bytes):
                if not first and begun and part.number > begun:
                    break
                command = CopyContent(
                    source=DB_ID,
                    source_position=position,
                    part=part.number,
                    last=part.last,
                    steps=part.steps,
                    tables=part.tables,
                    system_version=part.system_version,
                )
                for _ in range(random.choice((1, 1, 2))):
                    for outcome in clone.decide(command):
                        assert not isinstance(outcome, Exception), outcome
        yield clone


_FORGET = """
    UPDATE _forge_document SET source = NULL, source_position = NULL, next_part = 0, copied = 0,
    last_message_id = 0, last_webhook_id = 0
"""


@contextmanager
def forgetful(*connections: apsw.Connection) -> Iterator[None]:
    """Let documents not know of their own histories inside."""
    for db in connections:
        db.execute("BEGIN")
        db.execute("DELETE FROM _forge_command")
        db.execute(_FORGET)
    try:
        yield
    finally:
        for db in connections:
            db.execute("ROLLBACK")


def user_content(db: apsw.Connection) -> tuple[str, dict[str, list[int]]]:
    """Return what `content` does, without what a document knows of its own history."""
    with forgetful(db):
        return content(db)
