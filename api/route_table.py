"""Which route takes a request: found by path and method."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import TypeAlias

from starlette.routing import compile_path

from api.routes import ANY_METHOD, InvalidRoute, Route

KNOWN_PATHS = 2048
KNOWN_PATH_LENGTH_MAX = 256
ALL_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class Methods:
    """The routes of one path, by method."""

    def __init__(self, template: str) -> None:
        self.template = template
        self.by_method: dict[str, Route] = {}
        self.plain = False  # whether it refuses in plain text
        pattern, _, self.convertors = compile_path(template)
        self.pattern = re.compile(pattern.pattern, re.DOTALL)  # a line break is a character of a path like any other

    def find(self, method: str) -> Route | None:
        wanted = "GET" if method == "HEAD" and "HEAD" not in self.by_method else method
        return self.by_method.get(wanted) or self.by_method.get(ANY_METHOD)

    def allow(self) -> str:
        methods = set(self.by_method) | ({"HEAD"} if "GET" in self.by_method else set())
        if ANY_METHOD in methods:
            return ", ".join(ALL_METHODS)
        return ", ".join(sorted(methods))


Found: TypeAlias = tuple[Methods, Mapping[str, str]]


class RouteTable:
    """All routes, found by path: fixed paths by lookup, templates in the order of their declaration."""

    def __init__(self, routes: Sequence[Route]) -> None:
        by_template: dict[str, Methods] = {}
        for route in routes:
            methods = by_template.setdefault(route.path, Methods(route.path))
            if route.method in methods.by_method:
                raise InvalidRoute(f"{route.method} {route.path} is declared twice")
            methods.by_method[route.method] = route
            methods.plain = methods.plain or route.plain_errors
        self._fixed = {path: methods for path, methods in by_template.items() if not methods.convertors}
        self._templates = [methods for methods in by_template.values() if methods.convertors]
        self._find_known = lru_cache(KNOWN_PATHS)(self._find)

    def find(self, path: str) -> Found | None:
        return self._find_known(path) if len(path) <= KNOWN_PATH_LENGTH_MAX else self._find(path)

    def _find(self, path: str) -> Found | None:
        if methods := self._fixed.get(path):
            return methods, {}
        for methods in self._templates:
            if match := methods.pattern.match(path):
                return methods, MappingProxyType(match.groupdict())
        return None
