"""Moments as people type them: a position, a time of today, a date and time, or from now on for a while."""

import re
from datetime import datetime, time, timedelta
from typing import Any

import click

from forge.cli.flags import Duration
from schemas.instants import format_instant

_POSITION = re.compile(r"(0|[1-9][0-9]{0,19})\.(0|[1-9][0-9]{0,19})")  # as `schemas.ids` reads it
_CLOCK = re.compile(r"([01]?[0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")
_DAYS = re.compile(r"([1-9][0-9]{0,4})([dw])")
_UNIT_DAYS = {"d": 1, "w": 7}


def local_now() -> datetime:
    """Return the present moment in the time zone of this machine."""
    return datetime.now().astimezone()


class Moment(click.ParamType[str]):
    """A place in a document's history, as the API takes it: a position, or a moment in RFC 3339."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the position as it is, or the moment in UTC; a time without zone is one of this machine."""
        text = str(value).strip()
        if _POSITION.fullmatch(text):
            return text
        now = local_now()
        if _CLOCK.fullmatch(text):
            hour, _, rest = text.partition(":")
            moment = datetime.combine(now.date(), time.fromisoformat(f"{hour:0>2}:{rest}")).astimezone()
            if moment > now:
                self.fail(f"{text} is still to come today; write the date too", param, ctx)
            return format_instant(moment)
        try:
            return format_instant(datetime.fromisoformat(text).astimezone())
        except (ValueError, OverflowError):
            self.fail(f"{text!r} is no moment; write a position (1.42), 12:30, or 2026-01-31T12:30", param, ctx)


class Expiry(click.ParamType[str]):
    """A moment to come: `30d`, `2w`, `12h`, or a date and time."""

    name = "expiry"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the moment in RFC 3339, UTC."""
        text = str(value).strip()
        if found := _DAYS.fullmatch(text):
            return format_instant(local_now() + timedelta(days=int(found[1]) * _UNIT_DAYS[found[2]]))
        try:
            return format_instant(datetime.fromisoformat(text).astimezone())
        except (ValueError, OverflowError):
            pass
        try:
            return format_instant(local_now() + timedelta(seconds=Duration().convert(text, param, ctx)))
        except (click.BadParameter, OverflowError):
            self.fail(f"{text!r} is no expiry; write 30d, 12h, or 2026-01-31T12:30", param, ctx)
