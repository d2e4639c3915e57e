"""What a caller hears who is not let in: the problem, and the header that says which credential would do."""

from collections.abc import Sequence

from schemas.problems import FORBIDDEN, Refusal
from schemas.scopes import ANY_DB

BEARER = 'Bearer realm="forge"'
CHALLENGE = {"www-authenticate": f'{BEARER}, error="invalid_token"'}


def forbidden(request: str, actions: Sequence[str], place: str) -> Refusal:
    """Return the refusal of a request that needs one of `actions` on `place`."""
    needs = actions[0] if len(actions) == 1 else f"one of {', '.join(actions)}"
    return Refusal(
        FORBIDDEN.problem(f"{request} needs the scope {needs} on {place}"),
        {"www-authenticate": f'{BEARER}, error="insufficient_scope", scope="{" ".join(actions)}"'},
    )


def place(db_id: str, resource: str) -> str:
    """Return how a document, or all of them, and a resource there are named."""
    document = "all documents (*)" if db_id == ANY_DB else db_id
    return f"{document}, {resource}" if resource else document
