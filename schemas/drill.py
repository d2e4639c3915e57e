"""What is remembered of drills: restores into a scratch folder that are compared and thrown away.

<prefix>/drills/<projection>.json    the last drill of a projection
"""

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.facts import Instant
from schemas.generation import projection_token
from schemas.ids import InvalidId, unescape

FOLDER = "drills/"
_KEY = re.compile(r"drills/(?P<domain>[a-z]+)(/(?P<rest>[a-z0-9_-]+))?\.json")


def drill_key(projection: str) -> str:
    """Return the key of the last drill of a projection."""
    return f"{FOLDER}{projection_token(projection)}.json"


def parse_drill_key(text: str) -> str:
    """Return the projection of a key; raise `InvalidId`."""
    if not (found := _KEY.fullmatch(text)):
        raise InvalidId(f"not the key of a drill: {text[:200]!r}")
    return f"{found['domain']}/{unescape(found['rest'])}" if found["rest"] else str(found["domain"])


class DrillResult(BaseModel):
    """The outcome of one drill."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    projection: str = Field(description="its name, such as `doc/notes`")
    green: bool = Field(description="whether what was restored is what it must be")
    reason: str = Field("", description="why it is not green")
    at: Instant = Field(description="when the drill ended")
    position: str | None = Field(None, description="what was restored stands there")
    digest: str | None = Field(None, description="of its content")
    compared_with: Literal["node", "records"] | None = Field(
        None, description="`node`: the database of the running node; `records`: all archived records, folded"
    )
    generation: str | None = Field(None, description="position of the generation that was used")
    seconds: float = Field(description="that the restore took")
    size_bytes: int = Field(0, description="of what was restored")
    node: str = Field("", description="who did it")
