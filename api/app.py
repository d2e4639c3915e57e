"""Puts the route tables of all domains together into the application that a server serves."""

from collections.abc import Iterable, Sequence

from api.adapter import Api
from api.auth import Authoriser, anonymous_principal
from api.client_address import Proxies
from api.gate import Gate
from api.openapi import openapi_route
from api.origins import Origins
from api.rates import Rates
from api.routes import Route


def build_app(
    *tables: Sequence[Route],
    authoriser: Authoriser,
    rates: Rates | None = None,
    anonymous: Iterable[str] = (),
    proxies: Proxies | None = None,
    origins: Origins | None = None,
) -> Api:
    """Return the application over all `tables` and the OpenAPI document that describes them.

    Each domain gives one table; the system routes (`/healthz`, `/readyz`, `/status`, `/metrics`) are a table like any
    other. `anonymous` are the documents that need no token on routes that are declared so, `proxies` those that may
    say for whom they ask, `origins` those whose pages may ask. Raises `InvalidRoute` for one that is declared twice.
    """
    routes = [route for table in tables for route in table]
    gate = Gate(authoriser, rates, anonymous=anonymous_principal(anonymous), proxies=proxies)
    return Api([*routes, openapi_route(routes)], authoriser, gate, origins)
