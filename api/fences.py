"""`If-Fence` in HTTP headers: a change that rests on leases is made only if they are held at that moment."""

from typing import Any

from pydantic import ValidationError

from api.headers import Headers
from api.inputs import IF_FENCE
from api.routes import Request
from projectors.control.registry import Registry, unknown
from projectors.document.domain import document_partition
from projectors.partitions import Partitions
from schemas.document import PrepareSystem
from schemas.fences import FENCES_MAX, Fence
from schemas.problems import INVALID_PARAMETER, Refusal

FENCE_HEADER = "if-fence"
CHECK_TIMEOUT_S = 10.0


def fences(request: Request[Any]) -> tuple[Fence, ...]:
    """Return the fences that a request names, for its command; refuse (400) what is none."""
    if FENCE_HEADER not in request.headers:
        return ()
    given = [one for line in request.headers.all(FENCE_HEADER) for one in line.split(",")]
    if len(given) > FENCES_MAX:
        raise _invalid(f"there are {len(given)} fences, at most {FENCES_MAX} are possible")
    try:
        return tuple([Fence.parse(one) for one in given])
    except ValidationError as error:
        raise _invalid(str(error.errors()[0]["msg"])) from None
    except ValueError as error:
        raise _invalid(str(error)) from None


def refuse_fences(headers: Headers, why: str) -> None:
    """Refuse (400) a request that names fences where nobody looks at them: they must not pass for fences that hold."""
    if FENCE_HEADER in headers:
        raise Refusal(INVALID_PARAMETER.problem(why, fix="Leave out If-Fence.", field=IF_FENCE.name))


async def check_fences(request: Request[Any], partitions: Partitions, registry: Registry) -> None:
    """Refuse (412) unless the fences of a request hold in its document now.

    For changes that are not made in the document's own commit loop, which checks them in the moment of the change:
    here some time passes between the two.
    """
    found = fences(request)
    if not found:
        return
    if registry.find(request.db_id) is None:  # else asking would make its file
        raise unknown(request.db_id)
    await partitions.submit(
        document_partition(request.db_id),
        PrepareSystem(fences=found),
        principal=request.caller.name,
        timeout_s=CHECK_TIMEOUT_S,
    )


def _invalid(why: str) -> Refusal:
    fix = "Name each lease as <resource>=<fence>, separated by commas: `If-Fence: jobs/nightly=7`."
    return Refusal(INVALID_PARAMETER.problem(f"If-Fence: {why}", fix=fix, field=IF_FENCE.name))
