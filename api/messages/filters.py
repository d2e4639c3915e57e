"""The filters of topics that a request names, and whether its caller may have what they pick."""

from typing import Any

from api.challenges import forbidden, place
from api.inputs import Input
from api.routes import Request
from schemas.problems import INVALID_PARAMETER, Refusal
from schemas.topics import FILTERS_MAX, TOPIC_LENGTH_MAX, check_filter, literal_part

FILTERS = Input(
    "query",
    "topic",
    "Only topics that this filter picks, with + and # as in MQTT; may be given several times.",
    {"type": "array", "items": {"type": "string", "maxLength": TOPIC_LENGTH_MAX}, "maxItems": FILTERS_MAX},
)


def filters(request: Request[Any], action: str) -> tuple[str, ...]:
    """Return the filters of a request, none for everything; refuse (400, 403) what is none or not allowed.

    All that a filter picks is its part before the first wildcard, or lies below it: so much the caller must be allowed.
    """
    given = tuple(dict.fromkeys(request.query.getlist("topic")))
    if len(given) > FILTERS_MAX:
        why = f"there are {len(given)} filters, at most {FILTERS_MAX} are possible"
        raise Refusal(INVALID_PARAMETER.problem(why, field="topic"))
    for pattern in given:
        try:
            check_filter(pattern)
        except ValueError as error:
            raise Refusal(INVALID_PARAMETER.problem(f"topic={pattern[:80]}: {error}", field="topic")) from None
    for pattern in given or ("#",):
        if not request.allows(action, literal_part(pattern)):
            raise forbidden(f"topic={pattern}", [action], place(request.db_id, literal_part(pattern)))
    return given
