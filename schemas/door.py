"""What goes through the command door: a request to `forge.cmd.<partition>` and its reply."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from schemas.problems import Problem


class CommandRequest(BaseModel):
    """A command with the token of whoever asks. `command_id` makes repeating it safe."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    token: str
    name: str
    command: dict[str, Any]
    command_id: str | None = None


class CommandReply(BaseModel):
    """The answer with the position where it can be read, or the problem."""

    model_config = ConfigDict(frozen=True)

    position: str | None = None
    answer: Any = None
    problem: Problem | None = None
