"""Topics of messages and the filters that pick some, by the rules of MQTT."""

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator

TOPIC_LENGTH_MAX = 255
FILTERS_MAX = 32
_WILDCARDS = "+#"
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def check_topic(topic: str) -> str:
    """Return `topic` if a message can be published to it; raise `ValueError`."""
    _check_text(topic, "topic")
    if "+" in topic or "#" in topic:
        raise ValueError("a topic holds no + and no #: those are for filters")
    return topic


def check_filter(pattern: str) -> str:
    """Return `pattern` if it is a filter of topics; raise `ValueError`."""
    _check_text(pattern, "filter")
    levels = pattern.split("/")
    for place, level in enumerate(levels):
        if level in ("+", "#"):
            if level == "#" and place != len(levels) - 1:
                raise ValueError("# stands only at the end of a filter")
        elif any(character in level for character in _WILDCARDS):
            raise ValueError(f"+ and # stand for whole levels, between slashes: {level[:40]!r} is not one")
    return pattern


def _check_text(text: str, what: str) -> None:
    if not text or len(text) > TOPIC_LENGTH_MAX:
        raise ValueError(f"a {what} has 1 to {TOPIC_LENGTH_MAX} characters")
    if _CONTROL.search(text):
        raise ValueError(f"a {what} holds no control characters")


def matches(pattern: str, topic: str) -> bool:
    """Say whether a filter picks a topic; both are valid.

    `+` is one level, `#` at the end is the level before it and everything below. Neither matches a first level that
    begins with `$`.
    """
    if topic[0] == "$" and pattern[0] in _WILDCARDS:
        return False
    wanted, levels = pattern.split("/"), topic.split("/")
    for place, level in enumerate(wanted):
        if level == "#":
            return True
        if place == len(levels) or (level not in ("+", levels[place])):
            return False
        if place == len(levels) - 1 and wanted[place + 1 :] == ["#"]:
            return True
    return len(wanted) == len(levels)


def matches_any(patterns: Sequence[str], topic: str) -> bool:
    """Say whether one of several filters picks a topic; without filters every topic is picked."""
    return not patterns or any(matches(pattern, topic) for pattern in patterns)


def is_literal(pattern: str) -> bool:
    """Say whether a filter picks one topic only: its own text."""
    return "+" not in pattern and "#" not in pattern


def literal_part(pattern: str) -> str:
    """Return the levels of a filter before its first wildcard: everything that it picks is that, or lies below it."""
    levels: list[str] = []
    for level in pattern.split("/"):
        if level in ("+", "#"):
            break
        levels.append(level)
    return "/".join(levels)


Topic = Annotated[str, AfterValidator(check_topic)]
TopicFilter = Annotated[str, AfterValidator(check_filter)]
