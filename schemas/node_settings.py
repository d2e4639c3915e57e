"""The settings of what a node remembers of its own files, and how it may be named."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, Field

from schemas.ids import NodeId

AbsolutePath = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that does not depend on the folder a process happens to run in."""
_SEPARATOR = re.compile(r"[/\\ ]")


def node_segment(name: str) -> str:
    """Return the name of a node as keys and the log have it; raise `ValueError` if nothing is left of it."""
    if not (segment := _SEPARATOR.sub("_", name.strip())):
        raise ValueError("a node needs a name")
    return segment


class NodeSettings(BaseModel):
    """The node's name, and its databases."""

    node_id: Annotated[NodeId, BeforeValidator(node_segment)] = Field(
        "node",
        validation_alias=AliasChoices("FORGE_NODE_ID", "FORGE_NODE_NAME"),
        description="name of this node in the log; the machine's name by default",
    )
    snapshot_db: AbsolutePath = Field(
        Path(),
        validation_alias=AliasChoices("FORGE_PATH_SNAPSHOT_DB", "FORGE_SNAPSHOT_DB"),
        description="projection with the snapshots of folders",
    )
    refs_db: AbsolutePath = Field(
        Path(),
        validation_alias=AliasChoices("FORGE_PATH_REFS_DB"),
        description="projection that says which content this node keeps",
    )
