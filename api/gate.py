"""What every request passes before anything of it is looked at: is its caller known, and may it do this."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from api.auth import Authoriser, Principal
from api.challenges import BEARER, CHALLENGE, forbidden, place
from api.headers import Headers
from api.rates import Rates
from api.routes import DB_PARAMETER, Route
from schemas.ids import InvalidId, parse_db_id
from schemas.problems import INVALID_PARAMETER, NOT_FOUND, UNAUTHENTICATED, Refusal
from schemas.scopes import ANY_DB

_valid_db_id = lru_cache(4096)(parse_db_id)  # what is no name is not kept: that raises


class Admission(NamedTuple):
    """Who was let in, to which document and resource, and the headers that the answer gets."""

    principal: Principal | None
    db_id: str = ANY_DB
    resource: str = ""
    headers: Mapping[str, str] = {}


class Gate:
    """Authenticates and authorises; the one place where HTTP requests are let in."""

    def __init__(self, authoriser: Authoriser, rates: Rates | None = None) -> None:
        self._authoriser = authoriser
        self._rates = rates or Rates()

    def admit(self, route: Route, params: Mapping[str, str], headers: Headers) -> Admission:
        """Return what was let in; refuse who may not, or asks too often, before anything else is looked at."""
        if route.public:
            return Admission(None)
        principal = self._authenticate(headers)
        limits = self._rates.admit_caller(principal)
        db_id = _document(route, params)
        resource = route.resource.format_map(params) if "{" in route.resource else route.resource
        if route.anywhere:
            allowed = self._authoriser.allows_anywhere(principal, route.actions)
        elif route.below:
            allowed = self._authoriser.allows_below(principal, route.actions, db_id)
        else:
            allowed = self._allows(principal, route.actions, db_id, resource)
        if not allowed:
            raise forbidden(f"{route.method} {route.path}", route.actions, _place(route, db_id, resource))
        return Admission(principal, db_id, resource, self._rates.admit_document(db_id, limits))

    def _allows(self, principal: Principal, actions: Sequence[str], db_id: str, resource: str) -> bool:
        for action in actions:  # noqa: SIM110 - a generator would cost as much as the answer
            if self._authoriser.allows(principal, action, db_id, resource):
                return True
        return False

    def _authenticate(self, headers: Headers) -> Principal:
        given = headers.all("authorization")
        authorization = given[0] if len(given) == 1 else None
        principal = self._authoriser.authenticate(authorization)
        if principal is None:
            self._rates.admit_unknown()
            several = "there are several Authorization headers"
            why = several if len(given) > 1 else self._authoriser.why_not(authorization)
            raise Refusal(UNAUTHENTICATED.problem(why), CHALLENGE if given else {"www-authenticate": BEARER})
        return principal


def _document(route: Route, params: Mapping[str, str]) -> str:
    """Return the document that a request is about; refuse what is no name of one (400; 404 if it stands for one)."""
    db_id = route.document.format_map(params) if route.document else params.get(DB_PARAMETER, ANY_DB)
    if route.document or DB_PARAMETER in params:
        try:
            _valid_db_id(db_id)
        except InvalidId as error:
            if route.document:
                raise Refusal(NOT_FOUND.problem(f"there is no document of that name: {error}")) from error
            raise Refusal(INVALID_PARAMETER.problem(str(error), field=DB_PARAMETER)) from error
    return db_id


def _place(route: Route, db_id: str, resource: str) -> str:
    if route.anywhere:
        return "some document"
    return f"something in {db_id}" if route.below else place(db_id, resource)
