"""Moments as text: one fixed-width form, so that text order is time order."""

from datetime import UTC, datetime, timedelta


def format_instant(moment: datetime) -> str:
    """Return `moment` as RFC 3339 in UTC with six fractional digits."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_instant(text: str) -> datetime:
    """Read what `format_instant` wrote."""
    return datetime.fromisoformat(text)


def now() -> str:
    """Return the present moment by this machine's clock."""
    return format_instant(datetime.now(UTC))


def later(instant: str, seconds: float) -> str:
    """Return the moment `seconds` after `instant`."""
    return format_instant(parse_instant(instant) + timedelta(seconds=seconds))


def nanoseconds(instant: str) -> int:
    """Return a moment in nanoseconds since 1970, exactly."""
    since = parse_instant(instant) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1000
