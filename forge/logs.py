"""Sets up logging: JSON lines, or a readable form on a terminal, and never a secret in either."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
DEPTH_MAX = 5
_SECRET_NAME = re.compile(r"token|secret|password|passwd|authorization|cookie|credential|api_?key", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?P<before>\b\w[\w+.-]*://[^\s/:@]*:)[^\s/@]+(?=@)")
_TEXT_SECRET = re.compile(
    r"""(?P<before>\b(?:bearer|basic)\s+|\b(?:token|password|secret|api_?key)["']?\s*[=:]\s*["']?)[^\s"',;&]+""",
    re.IGNORECASE,
)


def configure_logs(level: str = "info", style: str = "auto", stream: TextIO | None = None) -> None:
    """Send all logs, ours and those of libraries, to `stream` (standard error by default).

    `level` is debug, info, warning or error; `style` is json, pretty, or auto: pretty on a terminal.
    Context bound with `structlog.contextvars` (the request id) is part of every line.
    """
    target = stream or sys.stderr
    pretty = style == "pretty" or (style == "auto" and target.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=target.isatty())
        if pretty
        else structlog.processors.JSONRenderer(default=str)
    )
    # the traceback becomes text first, so that it is redacted too
    ending: list[Processor] = [structlog.processors.format_exc_info, redact, renderer]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # It tells of each request at info, and the supervision of children alone makes two a second.
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            *shared,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        cache_logger_on_first_use=True,  # else every line pays for putting its logger together
    )


def redact(logger: WrappedLogger, method_name: str, event: EventDict) -> EventDict:
    """Structlog processor: replace every value under a secret's name, and secrets inside texts."""
    return {name: _clean(name, value, 0) for name, value in event.items()}


def redact_text(text: str) -> str:
    """Return `text` without bearer tokens, passwords in URLs, and `password=...` values."""
    return _TEXT_SECRET.sub(rf"\g<before>{REDACTED}", _URL_PASSWORD.sub(rf"\g<before>{REDACTED}", text))


def _clean(name: str, value: Any, depth: int) -> Any:
    if _SECRET_NAME.search(name) and value is not None:
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "replace"))
    if depth >= DEPTH_MAX:
        return REDACTED if isinstance(value, Mapping | list | tuple) else value
    if isinstance(value, Mapping):
        return {key: _clean(str(key), inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", inner, depth + 1) for inner in value]
    return value
