"""Command lines as Go's `flag` package reads them: long names behind one dash, durations such as `1m30s`."""

import re
from typing import Any

import click

_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})


class OneDashCommand(click.Command):
    """A command whose long options may also be written with one dash, and switches as `-v=true`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn Go's forms into Click's, then parse."""
        return super().parse_args(ctx, two_dashes(self.get_params(ctx), args))


def two_dashes(parameters: list[click.Parameter], arguments: list[str]) -> list[str]:
    """Return `arguments` with `-name` as `--name` for every long option, up to a `--`.

    The value behind an option is left alone, whatever it looks like. A switch with `=true` becomes the
    switch, one with `=false` disappears.
    """
    options = {name: option for option in parameters if isinstance(option, click.Option) for name in option.opts}
    translated: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*translated, argument, *rest]
        name, equals, value = argument.partition("=")
        if name not in options and not name.startswith("--") and f"-{name}" in options:
            name = f"-{name}"
        option = options.get(name)
        if option is None:
            translated.append(argument)
        elif option.is_flag:
            translated += _switch(name, value) if equals else [name]
        elif equals:
            translated += [name, value]
        else:
            translated.append(name)
            translated += [following for following in [next(rest, None)] if following is not None]
    return translated


def _switch(name: str, value: str) -> list[str]:
    if value.lower() in _TRUE:
        return [name]
    if value.lower() in _FALSE:
        return []
    raise click.BadOptionUsage(name, f"{name} is a switch: give true or false, not {value!r}")


class Duration(click.ParamType[float]):
    """A positive duration in seconds, written as Go writes it: `120s`, `1m30s`, `500ms`."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return seconds; fail with an example."""
        if isinstance(value, int | float):
            return float(value)
        text = str(value).strip()
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is not a duration; write for example 120s or 1m30s", param, ctx)
        seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
        if seconds <= 0:
            self.fail("must be > 0", param, ctx)
        return seconds
