"""Which objects of the archive are encrypted, and the object that says for whom: `<prefix>/keys/recipients.json`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.facts import Instant

RECIPIENTS_KEY = "keys/recipients.json"
RECIPIENTS_MAX = 32  # of one object, whose head grows with each
SETS_MAX = 16  # between two rotations
AREAS = ("control", "documents", "vector", "snapshot", "refs")
AREAS_DEFAULT = "control,documents,vector,snapshot"
CLEAR = "clear/"  # what is never encrypted, whatever it holds
FOLDERS = (CLEAR, "drills/", "epochs/", "gen/", "keys/", "leases/", "log/", "pages/", "payloads/")
"""What an archive has below its prefix, in order; anything else is somebody else's, such as archives of machines."""

_ALWAYS_CLEAR = ("keys/", "leases/", "epochs/", CLEAR)
_AREA_OF_STREAM = {
    "FORGE_CONTROL": "control",
    "FORGE_DOCS": "documents",
    "FORGE_VECTOR": "vector",
    "FORGE_NODE": "snapshot",
}
_AREA_OF_PROJECTION = {"control": "control", "doc": "documents", "vector": "vector", "refs": "refs"}

Reads = Literal["all", "new", "old"]  # everything; what is new since it came; what was old when it went
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
    """A public key, and whose it is."""

    public: Annotated[str, StringConstraints(min_length=8, max_length=2000)]
    name: str = Field("", max_length=200)
    role: Role = Field(description="`root`: named in the settings; `node`: of the node that wrote this")


class RecipientSet(_Stored):
    """Some objects are encrypted for exactly these."""

    recipients: tuple[StoredRecipient, ...] = Field(min_length=1, max_length=RECIPIENTS_MAX)
    canary: str = Field(description="an armoured age file for them: who opens it can read those objects")
    since: Instant

    def publics(self) -> set[str]:
        """Return their public keys."""
        return {recipient.public for recipient in self.recipients}


class RecipientsRecord(_Stored):
    """For whom the objects below a prefix are encrypted: told here, but decided by the settings of the writer alone.

    New objects are encrypted for the last set; until a rotation is done, older ones may be for each set before.
    """

    revision: int = Field(ge=1)
    sets: tuple[RecipientSet, ...] = Field(min_length=1, max_length=SETS_MAX)
    rotated_to: str | None = Field(None, description="the key up to which a rotation under way has come")
    node: str = Field(description="who wrote it")

    @property
    def current(self) -> RecipientSet:
        """For whom new objects are encrypted."""
        return self.sets[-1]

    def reads(self) -> list[tuple[StoredRecipient, Reads]]:
        """Return everybody who can read something, those of the last set first."""
        found: dict[str, tuple[StoredRecipient, Reads]] = {}
        for one in reversed(self.sets):
            for recipient in one.recipients:
                found.setdefault(recipient.public, (recipient, self._reads(recipient.public)))
        return list(found.values())

    def _reads(self, public: str) -> Reads:
        if public not in self.current.publics():
            return "old"
        return "all" if all(public in one.publics() for one in self.sets) else "new"
