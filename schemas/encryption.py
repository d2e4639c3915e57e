"""Which objects of the archive are encrypted, and the object that says for whom: `<prefix>/keys/recipients.json`."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.facts import Instant

RECIPIENTS_KEY = "keys/recipients.json"
RECIPIENTS_MAX = 32  # of one object, whose head grows with each
AREAS = ("control", "documents", "vector", "snapshot", "refs")
AREAS_DEFAULT = "control,documents,vector,snapshot"
CLEAR = "clear/"  # what is never encrypted, whatever it holds
_ALWAYS_CLEAR = ("keys/", "leases/", "epochs/", CLEAR)
_AREA_OF_STREAM = {
    "FORGE_CONTROL": "control",
    "FORGE_DOCS": "documents",
    "FORGE_VECTOR": "vector",
    "FORGE_NODE": "snapshot",
}
_AREA_OF_PROJECTION = {"control": "control", "doc": "documents", "vector": "vector", "refs": "refs"}

Reads = Literal["all", "new", "old"]
Role = Literal["root", "node"]
Areas = frozenset[str]


def parse_areas(text: str) -> Areas:
    """Read a list of areas, commas between; raise `ValueError`."""
    areas = frozenset(part.strip() for part in text.split(",") if part.strip())
    if not areas or not areas <= set(AREAS):
        raise ValueError(f"must be some of {','.join(AREAS)}")
    return areas


def is_encrypted(key: str, areas: Areas) -> bool:
    """Say whether the object of a key (below the prefix) is to be encrypted where `areas` are.

    Payloads and pages are shared by areas, so they are encrypted as soon as any is; so is what is not known here.
    """
    folder, _, rest = key.partition("/")
    below = rest.partition("/")[0]
    if folder == "log" and (area := _AREA_OF_STREAM.get(below)):
        return area in areas
    if folder == "gen" and (area := _AREA_OF_PROJECTION.get(below, "snapshot")):
        return area in areas
    return not key.startswith(_ALWAYS_CLEAR)


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class StoredRecipient(_Stored):
    """A public key, whose it is, and what can be read with its other half."""

    public: Annotated[str, StringConstraints(min_length=8, max_length=2000)]
    name: str = Field("", max_length=200)
    role: Role = Field(description="`root`: named in the settings; `node`: of the node that wrote this")
    reads: Reads = Field(description="all of it; what is new since it came; what was old when it went")


class RecipientsRecord(_Stored):
    """For whom the objects below a prefix are encrypted: told here, but decided by the settings of the writer alone."""

    revision: int = Field(ge=1)
    recipients: tuple[StoredRecipient, ...] = Field(max_length=4 * RECIPIENTS_MAX)
    canary: str = Field(description="an armoured age file that exactly those can open who read everything")
    rotated_to: str | None = Field(None, description="the key up to which a rotation under way has come")
    changed_at: Instant
    node: str = Field(description="who wrote it")

    def readers(self, *reads: Reads) -> list[StoredRecipient]:
        """Return those who can read so much."""
        return [recipient for recipient in self.recipients if recipient.reads in reads]

    def current(self) -> set[str]:
        """Return the public keys that new objects are encrypted for."""
        return {recipient.public for recipient in self.readers("all", "new")}


def changed(record: RecipientsRecord, wanted: Iterable[StoredRecipient]) -> tuple[StoredRecipient, ...]:
    """Return the recipients after objects begin to be encrypted for `wanted`, while older ones stay as they are."""
    before = {recipient.public: recipient for recipient in record.recipients}
    after = {one.public: one.model_copy(update={"reads": _reads_on(before.get(one.public))}) for one in wanted}
    gone = [one.model_copy(update={"reads": "old"}) for public, one in before.items() if public not in after]
    return (*after.values(), *gone)


def _reads_on(before: StoredRecipient | None) -> Reads:
    return "all" if before is not None and before.reads == "all" else "new"
