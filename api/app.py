"""Puts the route tables of all domains together into the application that a server serves."""

from collections.abc import Sequence

from api.adapter import Api
from api.auth import Authoriser
from api.openapi import openapi_route
from api.rates import Rates
from api.routes import Route


def build_app(*tables: Sequence[Route], authoriser: Authoriser, rates: Rates | None = None) -> Api:
    """Return the application over all `tables` and the OpenAPI document that describes them.

    Each domain gives one table; the system routes (`/healthz`, `/readyz`, `/status`, `/metrics`) are a
    table like any other. Raises `InvalidRoute` for a route that is declared twice.
    """
    routes = [route for table in tables for route in table]
    return Api([*routes, openapi_route(routes)], authoriser, rates)
