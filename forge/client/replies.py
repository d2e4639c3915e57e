"""What the client adds to the bodies of `schemas.vector_bodies`: what a node says in headers and status codes."""

from dataclasses import dataclass
from typing import Any, Literal

from schemas.ids import Position

Presence = Literal["present", "processing", "missing"]
"""What a node knows of a content hash."""


@dataclass(frozen=True, slots=True)
class UploadResult:
    """`accepted` with the job that will embed the bytes, or `already_present`; `position` if one was written."""

    status: Literal["accepted", "already_present"]
    job_id: int | None = None
    position: Position | None = None


@dataclass(frozen=True, slots=True)
class Health:
    """An answer of a health check: `ok`, and the body that says why."""

    ok: bool
    body: dict[str, Any]
