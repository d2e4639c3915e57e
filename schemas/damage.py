"""What is wrong with a stored text that cannot be read, in one line for people."""

from pydantic import ValidationError


def damage(error: ValueError) -> str:
    """Return where a text is not as it was written: the first field that is wrong, or its JSON."""
    if not isinstance(error, ValidationError):
        return str(error)
    place = ".".join(map(str, error.errors()[0]["loc"])) or "its JSON"
    return f"it is damaged at {place}"
