"""The node domain without a log: trees and commands, decided by the real rules and folded into real files."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from blake3 import blake3
from hypothesis import strategies as st

from events.cursor import Entry
from projectors.batch import Batch
from projectors.command_queue import Pending
from projectors.domain import Domain
from projectors.node.domain import node_domain, node_partition
from projectors.node.file_mode import go_mode
from projectors.node.parts import parts_of
from projectors.outcome import Outcome
from projectors.projection import Projection
from schemas.facts import Command
from schemas.node import DropRefs, KeepRefs, MapHashes, RecordTrees, Ref, TakeSnapshot, TreeEntry, TreePart

NODE = "node-a"
PARTITION = node_partition(NODE)
NOW = "2026-03-01T00:00:00.000000Z"
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
CIDS = tuple(blake3(bytes([number])).hexdigest() for number in range(4))

names = st.binary(min_size=1, max_size=6).filter(lambda raw: raw not in (b".", b"..") and not set(raw) & set(b"/\0"))
modes = st.sampled_from([0, *map(go_mode, (0o100644, 0o040755, 0o120777, 0o010600, 0o104755, 0o041777))])
tree_entries = st.builds(
    TreeEntry,
    name=names,
    kind=st.sampled_from(["file", "symlink", "special"]),
    target=st.sampled_from(CIDS),
    mode=modes,
    mtime_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    size=st.integers(0, 1 << 40),
    link=st.binary(max_size=6),
    tags=st.lists(st.sampled_from(["alpha", "beta", "ü"]), unique=True, max_size=3).map(
        lambda tags: tuple(sorted(tags))
    ),
)
folders = st.lists(tree_entries, unique_by=lambda entry: entry.name, max_size=6)
paths = st.sampled_from([b"/home/ada", b"/home/\xff"])
refs = st.builds(Ref, ref_key=st.sampled_from(CIDS), cid=st.sampled_from(CIDS))


def tree(entries: Sequence[TreeEntry]) -> TreePart:
    """Return a tree of one part."""
    (part,) = parts_of(entries)
    return part


def child(name: bytes, below: TreePart) -> TreeEntry:
    """Return a folder in a folder."""
    return TreeEntry(name=name, kind="tree", target=below.hash, mode=go_mode(0o040755))


@st.composite
def command_lists(draw: st.DrawFn) -> list[Command]:
    """Draw trees with what is below them, snapshots of them, refs and digests."""
    commands: list[Command] = []
    for below, here in draw(st.lists(st.tuples(folders, folders), max_size=4)):
        inner = tree(below)
        outer = tree([*here, child(b"folder of seven", inner)])
        commands.append(RecordTrees(trees=(inner, outer)))
        commands += [TakeSnapshot(path=draw(paths), target_hash=outer.hash) for _ in range(draw(st.integers(0, 2)))]
        commands.append(KeepRefs(source="some.source", refs=tuple(draw(st.lists(refs, min_size=1, max_size=3)))))
        commands.append(DropRefs(source="some.source", ref_keys=(draw(st.sampled_from(CIDS)),)))
        commands.append(MapHashes(blake3=draw(st.sampled_from(CIDS)), digests={"sha256": draw(st.sampled_from(CIDS))}))
    return draw(st.permutations(commands))


@contextmanager
def fresh() -> Iterator[tuple[Domain, list[Projection]]]:
    """Open both projections, empty, in a folder of their own."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as directory, ExitStack() as closing:
        folder = Path(directory)
        domain = node_domain(NODE, folder / "snapshot.db", folder / "refs.db", folder / "nodes")
        opened = [Projection(spec, PARTITION) for spec in domain.projections(NODE)]
        for projection in opened:
            closing.callback(projection.close)
        yield domain, opened


def run(domain: Domain, opened: list[Projection], commands: Sequence[Command]) -> list[tuple[Outcome, Entry | None]]:
    """Decide and commit each command as the commit loop does; return its outcome and its record."""
    done = []
    for command in commands:
        batch = Batch(domain, opened, PARTITION, NODE, partial(str, NOW))
        batch.decide([Pending(command, "root", None, cast(Any, None))])
        entry = None
        if batch.record:
            entry = Entry(batch.record, batch.cursor(batch.before.sequence + 1))
            batch.commit(entry.cursor)
        else:
            batch.rollback()
        done.append((batch.outcomes[0], entry))
    return done
