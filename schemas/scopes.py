"""Scopes: which action, on which documents, below which resource. The list of actions is closed."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict

from schemas.ids import InvalidId, parse_db_id

ACTIONS = (
    "query.read",
    "query.write",
    "query.admin",
    "pub.publish",
    "pub.subscribe",
    "stream.read",
    "stream.write",
    "webhook.ingest",
    "lease.acquire",
    "lease.renew",
    "lease.release",
    "blob.upload",
    "blob.read",
    "blob.claim",
    "blob.release",
    "blob.publish",
    "admin.token",
    "db.create",
    "db.manage",
    "replica.report",
    "vector.read",
    "vector.write",
    "vector.admin",
    "system.read",
)
"""Everything that a token can be allowed to do. An action, once published, keeps its meaning."""

NOT_IN_URLS = frozenset({"query.admin", "admin.token", "db.create", "db.manage", "vector.admin", "system.read"})
"""What a token in a URL must not allow: URLs end up in histories, logs of proxies and Referer headers."""

ANY_DB = "*"
NAMING_ACTIONS = frozenset(
    {"pub.publish", "pub.subscribe", "webhook.ingest", "lease.acquire", "lease.renew", "lease.release"}
)
"""Their resource is a name that callers choose, in which a slash at the beginning counts."""
RESOURCE_LENGTH_MAX = 512
_KNOWN = frozenset(ACTIONS)


def _check_action(action: str) -> str:
    if action not in _KNOWN:
        raise ValueError(f"{action[:80]!r} is no action; the actions are {', '.join(ACTIONS)}")
    return action


def _check_pattern(pattern: str) -> str:
    if pattern != ANY_DB:
        try:
            parse_db_id(pattern.removesuffix("*"))
        except InvalidId:
            why = f"db_id is a document's name, the beginning of one followed by *, or *: not {pattern[:140]!r}"
            raise ValueError(why) from None
    return pattern


def _check_resource(prefix: str) -> str:
    if len(prefix) > RESOURCE_LENGTH_MAX or (prefix and not prefix.isprintable()):
        raise ValueError(f"resource_prefix has at most {RESOURCE_LENGTH_MAX} characters, all of them printable")
    return prefix.strip("/")


class Scope(BaseModel):
    """`action` on the documents that the pattern `db_id` names, below `resource_prefix` (empty: everything).

    A pattern is a name, the beginning of names followed by `*`, or `*`. A prefix ends where a segment ends:
    `jobs` covers `jobs` and `jobs/1`, not `jobs2`. Slashes at the ends of a prefix and before a resource do not count,
    but a topic, endpoint or lease whose name begins with a slash is covered only without a prefix.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    db_id: str
    action: str
    resource_prefix: str = ""

    def covers(self, action: str, db_id: str, resource: str = "") -> bool:
        """Say whether it allows `action` on `resource` of one document, or of all that a pattern names."""
        if self.resource_prefix and resource.startswith("/") and action in NAMING_ACTIONS:
            return False
        return (
            self.action == action and covers_db(self.db_id, db_id) and covers_resource(self.resource_prefix, resource)
        )

    def reaches(self, action: str, db_id: str) -> bool:
        """Say whether it allows `action` on some resource of one document."""
        return self.action == action and covers_db(self.db_id, db_id)

    def includes(self, other: "Scope") -> bool:
        """Say whether it allows everything that `other` allows."""
        return self.covers(other.action, other.db_id, other.resource_prefix)

    def __str__(self) -> str:
        return f"{self.action} on {self.db_id}" + (f" below {self.resource_prefix}" if self.resource_prefix else "")


class WantedScope(Scope):
    """A scope that somebody asks for: of a known action, with a pattern and a prefix that make sense."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    db_id: Annotated[str, AfterValidator(_check_pattern)]
    action: Annotated[str, AfterValidator(_check_action)]
    resource_prefix: Annotated[str, AfterValidator(_check_resource)] = ""


def covers_db(pattern: str, db_id: str) -> bool:
    """Say whether `pattern` names `db_id`, or every document that `db_id` names if that is a pattern too."""
    if pattern.endswith("*"):
        return db_id.startswith(pattern[:-1])
    return pattern == db_id


def covers_resource(prefix: str, resource: str) -> bool:
    """Say whether `resource` lies at or below `prefix`."""
    prefix, resource = prefix.strip("/"), resource.lstrip("/")
    return not prefix or resource == prefix or resource.startswith(prefix + "/")
