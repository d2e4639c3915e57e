"""The node domain: what one machine remembers of its own files. Its facts and its commands."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from schemas.facts import Command, Fact, facts_by_type
from schemas.ids import Cid
from schemas.os_text import OsText, check_name

ENTRIES_MAX = 4000  # of a tree in one command and one fact; a larger one takes several
TREES_MAX = 4000  # in one command
REFS_MAX = 4000
DIGESTS_MAX = 32
TAGS_MAX = 1 << 15
TAG_LENGTH_MAX = 1 << 16  # what a file system may keep with a file
HASH_ALGORITHM = "blake3"

EntryKind = Literal["file", "symlink", "tree", "special"]
Uint32 = Annotated[int, Field(ge=0, lt=1 << 32)]
Int64 = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
Size = Annotated[int, Field(ge=0, lt=1 << 63)]
EntryName = Annotated[OsText, AfterValidator(check_name)]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=TAG_LENGTH_MAX)]
Source = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
RefKey = Annotated[str, StringConstraints(min_length=1, max_length=512)]
Algorithm = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
HexDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{1,256}$")]


class TreeEntry(BaseModel):
    """One entry of a folder. `target` is the hash of its bytes, of its link text, or of the tree below.

    `mode` has the bits of Go's FileMode; mode and time are 0 where a snapshot leaves them out.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64")

    name: EntryName
    kind: EntryKind
    target: Cid
    mode: Uint32 = 0
    mtime_ns: Int64 = 0
    size: Size = 0
    link: OsText = b""
    tags: Annotated[tuple[Tag, ...], Field(max_length=TAGS_MAX)] = ()


class TreePart(BaseModel):
    """Entries of a tree, in their order, from number `first` on; the tree has `entry_count`."""

    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64")

    hash: Cid
    entry_count: Uint32
    first: Uint32 = 0
    entries: Annotated[tuple[TreeEntry, ...], Field(max_length=ENTRIES_MAX)] = ()


class Ref(BaseModel):
    """A name under which some content is kept."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ref_key: RefKey
    cid: Cid


class TreeRecorded(Fact):
    """Entries of a folder are known, from number `first` on. With the last of them it is whole and has a `hash_v2`."""

    TYPE: ClassVar[str] = "forge.node.tree.recorded"
    tree: TreePart
    hash_v2: str | None = None
    hash_algo: str = HASH_ALGORITHM

    @property
    def subject(self) -> str:
        """The tree."""
        return self.tree.hash


class SnapshotTaken(Fact):
    """A folder looked like the tree `target_hash` at a moment. No two snapshots of one path have the same."""

    TYPE: ClassVar[str] = "forge.node.snapshot.taken"
    path: OsText
    taken_at_ns: int
    target_hash: str
    target_kind: str = "tree"
    hash_algo: str = HASH_ALGORITHM

    @property
    def subject(self) -> str:
        """The tree."""
        return self.target_hash


class RefsKept(Fact):
    """This node keeps content under these names of `source`; its bytes lie in the payload store."""

    TYPE: ClassVar[str] = "forge.node.ref.kept"
    source: str
    refs: tuple[Ref, ...]

    @property
    def subject(self) -> str:
        """Who keeps them."""
        return self.source

    @property
    def payloads(self) -> tuple[str, ...]:
        """The content."""
        return tuple(dict.fromkeys(ref.cid for ref in self.refs))


class RefsDropped(Fact):
    """This node no longer keeps content under these names of `source`."""

    TYPE: ClassVar[str] = "forge.node.ref.dropped"
    source: str
    ref_keys: tuple[str, ...]

    @property
    def subject(self) -> str:
        """Who kept them."""
        return self.source


class HashesMapped(Fact):
    """The content with this BLAKE3 has these digests by other algorithms."""

    TYPE: ClassVar[str] = "forge.node.hash.mapped"
    blake3: str
    digests: dict[str, str]

    @property
    def subject(self) -> str:
        """The content."""
        return self.blake3


NodeFact = TreeRecorded | SnapshotTaken | RefsKept | RefsDropped | HashesMapped
FACTS = facts_by_type(TreeRecorded, SnapshotTaken, RefsKept, RefsDropped, HashesMapped)


class RecordTrees(Command):
    """Remember trees, or parts of them, those below before those above. What is known already is not recorded again."""

    trees: Annotated[tuple[TreePart, ...], Field(min_length=1, max_length=TREES_MAX)]


class TakeSnapshot(Command):
    """Remember that a folder looks like a tree that was recorded."""

    path: Annotated[OsText, Field(min_length=1, max_length=1 << 16)]
    target_hash: Cid


class KeepRefs(Command):
    """Keep content, whose bytes are in the payload store already."""

    source: Source
    refs: Annotated[tuple[Ref, ...], Field(min_length=1, max_length=REFS_MAX)]


class DropRefs(Command):
    """Keep content no longer under these names."""

    source: Source
    ref_keys: Annotated[tuple[RefKey, ...], Field(min_length=1, max_length=REFS_MAX)]


class MapHashes(Command):
    """Remember other digests of content."""

    blake3: Cid
    digests: Annotated[dict[Algorithm, HexDigest], Field(min_length=1, max_length=DIGESTS_MAX)]


class CatchUp(Command):
    """Change nothing. Whoever hears the answer finds in the databases what the log held when it was asked."""

    QUICK: ClassVar[bool] = True


COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind for kind in (CatchUp, RecordTrees, TakeSnapshot, KeepRefs, DropRefs, MapHashes)
}
