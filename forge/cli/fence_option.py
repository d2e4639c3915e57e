"""`--fence RESOURCE=N` on the command line."""

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from schemas.fences import Fence

FENCE_HELP = "Change nothing unless this lease is held, as acquiring it told; may be repeated."


class FenceType(click.ParamType["Fence"]):
    """A lease by its number."""

    name = "fence"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Fence":
        """Return the fence; fail with what one looks like."""
        from schemas.fences import Fence

        if isinstance(value, Fence):
            return value
        try:
            return Fence.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


fence_option = click.option("--fence", "fences", type=FenceType(), multiple=True, metavar="RESOURCE=N", help=FENCE_HELP)
