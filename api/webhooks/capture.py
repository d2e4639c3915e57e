"""What is kept of a webhook beside its body: headers and query, without what opens something.

Signatures are kept: they prove what was sent, and open nothing. A header or parameter that is left out keeps its name.
"""

import re
from urllib.parse import unquote_plus

from pydantic_core import to_json

from api.headers import Headers

REDACTED = "[redacted]"
CREDENTIALS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie"})
_SECRET = (
    r"token|secret|pass(w|phrase)|(api|access|private|functions|subscription)[-_]?key|credential|session"
    r"|(^|[-_.])auth($|[-_.]|ori[sz]ation|entication)|(^|[-_.])jwt($|[-_.])"
)
_SECRET_HEADER = re.compile(_SECRET)
_SECRET_PARAMETER = re.compile(rf"{_SECRET}|signature|^(sig|key|code|pwd)$")


def kept_headers(headers: Headers) -> str:
    """Return headers as a JSON object of arrays."""
    names = reversed(headers)
    return to_json({name: [REDACTED] if _opens(name) else headers.all(name) for name in names}).decode()


def content_type(headers: Headers) -> str | None:
    """Return what the body is said to be."""
    return headers.get("content-type")


def kept_query(query: str) -> str:
    """Return a query string as it was sent, but for the values of parameters that may be credentials."""
    return "&".join([_kept(parameter) for parameter in query.split("&")]) if query else ""


def _kept(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    secret = equals and _SECRET_PARAMETER.search(unquote_plus(name).strip().lower())
    return f"{name}={REDACTED}" if secret else parameter


def _opens(name: str) -> bool:
    return name in CREDENTIALS or _SECRET_HEADER.search(name) is not None
