"""Fences: the number of a lease that a change rests on, and the resources that are leased."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RESOURCE_LENGTH_MAX = 255
FENCES_MAX = 16
_RESOURCE = re.compile(r"[A-Za-z0-9._:/@+-]{1,255}")


def check_resource(resource: str) -> str:
    """Return `resource` if it can be leased; raise `ValueError`."""
    if not _RESOURCE.fullmatch(resource):
        raise ValueError(f"a resource has 1 to {RESOURCE_LENGTH_MAX} letters, digits and . _ : / @ + -")
    return resource


Resource = Annotated[str, AfterValidator(check_resource)]


class Fence(BaseModel):
    """A claim: whoever asks holds the lease of `resource` that was granted with this number."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    resource: Resource
    fence: int = Field(ge=1, lt=1 << 63)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<resource>=<number>`; raise `ValueError`."""
        resource, equals, number = text.strip().rpartition("=")
        if not equals or not number.isascii() or not number.isdigit() or len(number) > 19:
            raise ValueError(f"a fence is <resource>=<number>, such as jobs/nightly=7, not {text[:80]!r}")
        return cls(resource=check_resource(resource), fence=int(number))

    def __str__(self) -> str:
        return f"{self.resource}={self.fence}"


Fences = Annotated[tuple[Fence, ...], Field(max_length=FENCES_MAX)]
