"""What every request passes before anything of it is looked at: is its caller known, and may it do this."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from starlette.datastructures import QueryParams

from api.auth import Authoriser, Principal
from api.challenges import BEARER, CHALLENGE, forbidden, place
from api.client_address import Proxies, rate_key
from api.headers import Headers
from api.rates import Rates
from api.routes import DB_PARAMETER, TOKEN_PARAMETER, Route
from schemas.ids import InvalidId, parse_db_id
from schemas.problems import INVALID_PARAMETER, NOT_FOUND, UNAUTHENTICATED, Refusal
from schemas.scopes import ANY_DB

_BARE = {"www-authenticate": BEARER}
_NOT_FOR_URLS = "this token is not for URLs"
_valid_db_id = lru_cache(4096)(parse_db_id)  # what is no name is not kept: that raises


class Shown(NamedTuple):
    """What a caller shows of himself; `peer` is the address of his connection."""

    headers: Headers
    query: QueryParams
    peer: str | None


class Admission(NamedTuple):
    """Who was let in, to which document and resource, and the headers that the answer gets."""

    principal: Principal | None
    db_id: str = ANY_DB
    resource: str = ""
    headers: Mapping[str, str] = {}


class Gate:
    """Authenticates and authorises; the one place where HTTP requests are let in."""

    def __init__(
        self,
        authoriser: Authoriser,
        rates: Rates | None = None,
        *,
        anonymous: Principal | None = None,
        proxies: Proxies | None = None,
    ) -> None:
        """`anonymous` is who shows no credential, on routes that let him in."""
        self.proxies = proxies or Proxies()
        self._authoriser = authoriser
        self._rates = rates or Rates()
        self._anonymous = anonymous

    def admit(self, route: Route, params: Mapping[str, str], shown: Shown) -> Admission:
        """Return what was let in; refuse who may not, or asks too often, before anything else is looked at."""
        if route.public:
            return Admission(None)
        principal, limits = self._known(route, params, shown)
        db_id = _document(route, params)
        resource = route.resource.format_map(params) if "{" in route.resource else route.resource
        if route.anywhere:
            allowed = self._authoriser.allows_anywhere(principal, route.actions)
        elif route.below:
            allowed = self._authoriser.allows_below(principal, route.actions, db_id)
        else:
            allowed = self._allows(principal, route.actions, db_id, resource)
        if not allowed:
            raise forbidden(route.name, route.actions, _place(route, db_id, resource))
        return Admission(principal, db_id, resource, self._rates.admit_document(db_id, limits))

    def _allows(self, principal: Principal, actions: Sequence[str], db_id: str, resource: str) -> bool:
        for action in actions:  # noqa: SIM110 - a generator would cost as much as the answer
            if self._authoriser.allows(principal, action, db_id, resource):
                return True
        return False

    def _known(self, route: Route, params: Mapping[str, str], shown: Shown) -> tuple[Principal, Mapping[str, str]]:
        """Return who asks, and the headers that say how often he may; refuse (401, 429) who is not known."""
        given = shown.headers.all("authorization")
        if given or not (route.url_token or route.anonymous):
            principal = self._authenticate(given)
            return principal, self._rates.admit_caller(principal)
        in_url = shown.query.getlist(TOKEN_PARAMETER) if route.url_token else []
        if in_url:
            principal = self._authenticate_url(in_url)
            return principal, self._rates.admit_caller(principal)
        if self._anonymous is None or not route.anonymous:
            raise self._unknown(self._authoriser.why_not(None), _BARE)
        if not self._authoriser.allows_below(self._anonymous, route.actions, _named_document(route, params)):
            raise self._unknown(self._authoriser.why_not(None), _BARE)
        address = self.proxies.client(shown.peer, shown.headers)
        return self._anonymous, self._rates.admit_anonymous(rate_key(address))

    def _authenticate(self, given: Sequence[str]) -> Principal:
        authorization = given[0] if len(given) == 1 else None
        principal = self._authoriser.authenticate(authorization)
        if principal is None:
            several = "there are several Authorization headers"
            why = several if len(given) > 1 else self._authoriser.why_not(authorization)
            raise self._unknown(why, CHALLENGE if given else _BARE)
        return principal

    def _authenticate_url(self, given: Sequence[str]) -> Principal:
        if len(given) > 1:
            raise self._unknown("there are several tokens in the URL", CHALLENGE)
        authorization = f"Bearer {given[0]}"
        principal = self._authoriser.authenticate(authorization)
        if principal is None:
            raise self._unknown(f"in the URL: {self._authoriser.why_not(authorization)}", CHALLENGE)
        if not principal.url:
            fix = "Send it in the Authorization header, or mint one for URLs: `forge token create LABEL --for-url ...`."
            raise self._unknown(_NOT_FOR_URLS, CHALLENGE, fix)
        return principal

    def _unknown(self, why: str, challenge: Mapping[str, str], fix: str | None = None) -> Refusal:
        self._rates.admit_unknown()
        return Refusal(UNAUTHENTICATED.problem(why, fix=fix), challenge)


def _named_document(route: Route, params: Mapping[str, str]) -> str:
    """Return what stands where a document is named."""
    return route.document.format_map(params) if route.document else params.get(DB_PARAMETER, ANY_DB)


def _document(route: Route, params: Mapping[str, str]) -> str:
    """Return the document that a request is about; refuse what is no name of one (400; 404 if it stands for one)."""
    db_id = _named_document(route, params)
    if db_id == ANY_DB and not route.of_one_document:
        return db_id
    try:
        return _valid_db_id(db_id)
    except InvalidId as error:
        if route.document:
            raise Refusal(NOT_FOUND.problem(f"there is no document of that name: {error}")) from error
        raise Refusal(INVALID_PARAMETER.problem(str(error), field=DB_PARAMETER)) from error


def _place(route: Route, db_id: str, resource: str) -> str:
    if route.anywhere:
        return "some document"
    return f"something in {db_id}" if route.below else place(db_id, resource)
