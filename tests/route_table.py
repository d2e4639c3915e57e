"""Every route that some class of `api/` declares, for the tests that must not forget one."""

import importlib
import inspect
import pkgutil
from dataclasses import fields
from typing import Any, get_type_hints

import api
from api.app import build_app
from api.asyncapi import asyncapi_route
from api.auth import Access
from api.door import CommandDoor
from api.openapi import openapi_route
from api.routes import Route
from api.uploads import Uploads


class Anything:
    """Stands for what a handler would need: the table is read, no handler is called."""

    def __getattr__(self, _: str) -> "Anything":
        return self


ANYTHING: Any = Anything()  # of whatever type somebody wants


def every_route() -> list[Route]:
    """Return the tables of all domains together, as the application puts them together."""
    routes = [route for table in _tables() for route in table]
    routes.append(asyncapi_route(CommandDoor("nats://127.0.0.1:1", ANYTHING, ANYTHING).broker))
    routes.append(openapi_route(routes))
    build_app(routes[:-1], authoriser=Access("forge_no-token"))  # which refuses routes that contradict each other
    return routes


def _tables() -> list[list[Route]]:
    tables = []
    for module in pkgutil.walk_packages(api.__path__, "api."):
        for _, kind in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            if kind.__module__ == module.name and callable(getattr(kind, "routes", None)):
                tables.append(list(_unwired(kind).routes()))
    return tables


def _unwired(kind: type[Any]) -> Any:
    instance = object.__new__(kind)
    hints = get_type_hints(kind)
    for name in [one.name for one in fields(kind)]:
        object.__setattr__(instance, name, _unwired(hints[name]) if hints[name] is Uploads else ANYTHING)
    return instance
