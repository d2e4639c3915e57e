"""The settings of HTTP that say who is believed and who is let in."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, AliasChoices, BaseModel, Field

from schemas.ids import InvalidId, parse_db_id


def items(text: str) -> tuple[str, ...]:
    """Return the members of a list that is written with commas."""
    return tuple(item for part in text.split(",") if (item := part.strip()))


def _networks(text: str) -> str:
    for item in items(text):
        try:
            ip_network(item)
        except ValueError as error:
            raise ValueError(f"must be addresses or CIDR blocks, separated by commas: {error}") from None
    return text


def _documents(text: str) -> str:
    for item in items(text):
        try:
            parse_db_id(item)
        except InvalidId as error:
            raise ValueError(f"must be names of documents, separated by commas: {error}") from None
    return text


def _origins(text: str) -> str:
    for item in items(text):
        scheme, separator, rest = item.partition("://")
        if item != "*" and (scheme not in ("http", "https") or not separator or not rest or "/" in rest):
            raise ValueError(f"must be origins such as https://example.org, separated by commas, or *: not {item!r}")
    return text


class HttpSettings(BaseModel):
    """Who may say for whom he asks, and who is let in without a token."""

    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        validation_alias=AliasChoices("FORGE_TRUSTED_PROXIES"),
        description="addresses or CIDR blocks of proxies whose X-Forwarded-For is believed, separated by commas",
    )
    cors_origins: Annotated[str, AfterValidator(_origins)] = Field(
        "",
        validation_alias=AliasChoices("FORGE_CORS_ORIGINS"),
        description="origins whose pages may use this node from a browser, separated by commas; *: any",
    )
    relay_anonymous: Annotated[str, AfterValidator(_documents)] = Field(
        "",
        validation_alias=AliasChoices("FORGE_RELAY_ANONYMOUS"),
        description="documents whose stream relay needs no token, separated by commas",
    )
