"""What is said of a value that a setting cannot have: what it must be, in words of this project."""

from collections.abc import Mapping

from pydantic_core import ErrorDetails

from schemas.archive import PREFIX_PATTERN
from schemas.ids import NODE_ID_PATTERN

BUCKET_PATTERN = r"^([A-Za-z0-9._-]{1,255}|arn:[A-Za-z0-9:/._-]+)?$"
_PORT = r"6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[0-9]{1,4}"
URL_PATTERN = rf"^(https?://([^\s/?#@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:({_PORT}))?(/[^\s?#@]*)?)?$"
"""One of the S3 clients crashes at a port that is none."""
REGION_PATTERN = r"^[A-Za-z0-9-]{1,63}$"

_PATTERNS = {
    NODE_ID_PATTERN: "must be at most 63 letters, digits, '.', '_' and '-', and begin with a letter, a digit or '_'",
    PREFIX_PATTERN: "must be letters, digits, '.', '_' and '-', with one '/' between parts and none at the ends, and "
    "no part of dots alone",
    BUCKET_PATTERN: "must be the name of a bucket alone, or the ARN of an access point",
    URL_PATTERN: "must begin with http:// or https://, and name a host, with a port if it is not the usual one",
    REGION_PATTERN: "must be the name of a region, such as eu-central-1",
}
_KINDS = {
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_parsing": "must be true or false",
}


def setting_problem(details: ErrorDetails, given: Mapping[str, str]) -> str:
    """Return a line that begins with the name of the setting; `given` are the values by their names."""
    name = str(details["loc"][0]) if details["loc"] else "settings"
    return f"{name} {_message(details)} (it is {given.get(name, '')!r})"


def _message(details: ErrorDetails) -> str:
    context = details.get("ctx", {})
    match details["type"]:
        case "greater_than":
            return f"must be > {_number(context['gt'])}"
        case "greater_than_equal":
            return f"must be >= {_number(context['ge'])}"
        case "less_than_equal":
            return f"must be <= {_number(context['le'])}"
        case "literal_error":
            return f"must be {context['expected']}"
        case "string_pattern_mismatch" if context["pattern"] in _PATTERNS:
            return _PATTERNS[context["pattern"]]
        case kind if kind in _KINDS:
            return _KINDS[kind]
    return details["msg"].removeprefix("Value error, ")


def _number(bound: float) -> str:
    return str(bound).removesuffix(".0")
