"""What the code of a handler reads from the query and the headers, found in its source."""

import ast
import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

READS = {"query": "query", "headers": "header"}
LOOKUPS = ("get", "getlist", "all", "__contains__")
UNDECLARED = frozenset({("header", "accept")})
"""The media types of a route's replies say it."""


class Unreadable(Exception):
    """A name is not a constant where it is read: neither a reader nor a test can tell what it is."""


def reads(function: Callable[..., Any]) -> set[tuple[str, str]]:
    """Return (where, lower-case name) of what a handler reads, itself or by passing its `request` on."""
    return _reads(inspect.unwrap(getattr(function, "__func__", function)), ()) - UNDECLARED


@cache
def _tree(function: Any) -> ast.AST:
    source = inspect.getsource(function)
    return ast.parse("if True:\n" + source if source[0].isspace() else source)


@cache
def _reads(function: Any, constants: tuple[tuple[str, str], ...]) -> set[tuple[str, str]]:
    """`constants` are the arguments of this call that are text, by the name of the parameter."""
    known = dict(constants)
    found: set[tuple[str, str]] = set()
    for node in ast.walk(_tree(function)):
        for where, name in _names(node):
            found |= {(where, one.lower()) for one in _constants(name, function, known)}
        if isinstance(node, ast.Call) and any(map(_is_request, node.args)):
            for called in _called(node.func, function):
                found |= _reads(called, _bound(node, called, function, known))
    return found


def _names(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield where something is read by `node` itself, and the expression that names it."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Attribute(value=owner, attr=kind), attr=method)):
            if kind in READS and _is_request(owner):
                if method not in LOOKUPS:
                    raise Unreadable(ast.unparse(node))
                yield READS[kind], node.args[0]
        case ast.Subscript(value=ast.Attribute(value=owner, attr=kind)) if kind in READS and _is_request(owner):
            yield READS[kind], node.slice
        case ast.Compare(left=name, comparators=[ast.Attribute(value=owner, attr=kind)]):
            if kind in READS and _is_request(owner):
                yield READS[kind], name


def _is_request(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id == "request"


def _constants(node: ast.expr, function: Any, known: dict[str, str]) -> list[str]:
    """Return what a name can be: a constant, or each one that a loop goes over."""
    if isinstance(node, ast.Name):
        for loop in ast.walk(_tree(function)):
            match loop:
                case ast.For(target=ast.Name(id=node.id), iter=ast.Tuple(elts=values)):
                    return [_constant(value, function, known) for value in values]
    return [_constant(node, function, known)]


def _constant(node: ast.expr, function: Any, known: dict[str, str]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        value = known.get(node.id, function.__globals__.get(node.id))
        if isinstance(value, str):
            return value
    raise Unreadable(f"{function.__qualname__}: {ast.unparse(node)}")


def _bound(call: ast.Call, called: Any, function: Any, known: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Return which parameters of `called` get a constant text in this call."""
    names = [name for name in inspect.signature(called).parameters if name != "self"]
    bound = []
    for name, value in [*zip(names, call.args, strict=False), *((one.arg, one.value) for one in call.keywords)]:
        try:
            bound.append((str(name), _constant(value, function, known)))
        except Unreadable:
            continue
    return tuple(bound)


def _called(node: ast.expr, function: Any) -> Iterator[Any]:
    """Yield the functions of `api` that a call may mean: a name, a method of the same class, or of a field."""
    if isinstance(node, ast.Name):
        candidates = [function.__globals__.get(node.id)]
    elif isinstance(node, ast.Attribute):
        candidates = [getattr(kind, node.attr, None) for kind in _classes(function)]
    else:
        candidates = []
    for one in candidates:
        if inspect.isfunction(one) and one.__module__.startswith("api."):
            yield one


def _classes(function: Any) -> Iterator[type[Any]]:
    """Yield the classes of `api` that the module of a function knows, its own among them."""
    for value in function.__globals__.values():
        if inspect.isclass(value) and value.__module__.startswith("api."):
            yield value
