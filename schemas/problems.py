"""Every problem that an answer can name, as data, and the RFC 9457 body it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PROBLEM_CONTENT_TYPE = "application/problem+json"
RETRY_AFTER_DEFAULT_S = 1
_NEEDS_RETRY_AFTER = frozenset({429, 503})


class Problem(BaseModel):
    """What failed, why, and what to do about it; sent as `application/problem+json`."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="stable name, `urn:forge:problem:<slug>`")
    title: str = Field(description="what failed, the same text for every problem of this type")
    status: int = Field(description="the HTTP status, repeated")
    detail: str = Field(description="why: the observed value")
    fix: str = Field(description="what to do, where possible a command")
    error: str = Field(description="the short text that older clients read")
    field: str | None = Field(None, description="the field, header or parameter that is wrong")
    request_id: str | None = Field(None, description="find this id in the log of the node")
    retry_after_s: int | None = Field(None, exclude=True, description="sent as the Retry-After header")

    def body(self) -> dict[str, Any]:
        """Return the JSON object, without the fields that do not apply."""
        return self.model_dump(exclude_none=True)


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of problem; `problem` makes an occurrence of it."""

    slug: str
    title: str
    status: int
    fix: str

    @property
    def uri(self) -> str:
        """The stable identifier that clients compare."""
        return f"urn:forge:problem:{self.slug}"

    def problem(
        self,
        detail: str,
        *,
        fix: str | None = None,
        error: str | None = None,
        field: str | None = None,
        retry_after_s: int | None = None,
    ) -> Problem:
        """Return one occurrence; `detail` says why, `error` is the legacy text (default: `detail`).

        A 429 or 503 always carries a Retry-After, one second unless `retry_after_s` says otherwise.
        """
        if retry_after_s is None and self.status in _NEEDS_RETRY_AFTER:
            retry_after_s = RETRY_AFTER_DEFAULT_S
        return Problem(
            type=self.uri,
            title=self.title,
            status=self.status,
            detail=detail,
            fix=fix or self.fix,
            error=error or detail,
            field=field,
            retry_after_s=retry_after_s,
        )


BAD_REQUEST = ProblemType("bad-request", "The request is not valid HTTP", 400, "Send a well-formed HTTP/1.1 request.")
INVALID_BODY = ProblemType(
    "invalid-body", "The request body is not valid", 400, "Correct the named field and send it again."
)
INVALID_PARAMETER = ProblemType(
    "invalid-parameter",
    "A parameter or header is not valid",
    400,
    "Correct the named parameter and send it again.",
)
UNAUTHENTICATED = ProblemType(
    "unauthenticated",
    "No valid token was given",
    401,
    "Send `Authorization: Bearer <token>`; a node keeps its first token in `root.token` in its data directory.",
)
FORBIDDEN = ProblemType(
    "forbidden", "The token does not allow this", 403, "Use a token that has the scope named in the detail."
)
NOT_FOUND = ProblemType(
    "not-found", "There is nothing here", 404, "Check the path; `GET /api/v1/openapi.json` lists them all."
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed", "The path does not take this method", 405, "Use a method from the Allow header."
)
REQUEST_TIMEOUT = ProblemType(
    "request-timeout", "The request did not arrive in time", 408, "Send the request again, without pauses."
)
CONFLICT = ProblemType(
    "conflict", "The state has changed in the meantime", 409, "Read the current state, then decide again."
)
DOCUMENT_ARCHIVED = ProblemType(
    "document-archived", "The document is archived", 409, "Take it out of the archive, then send the request again."
)
DOCUMENT_DELETED = ProblemType("document-deleted", "The document is deleted", 410, "Bring it back, or use another one.")
OTHER_HISTORY = ProblemType(
    "other-history", "The document has another history", 409, "Start again from `GET .../snapshot/latest`."
)
HISTORY_GONE = ProblemType(
    "history-gone", "That part of the history is gone", 410, "Start again from `GET .../snapshot/latest`."
)
REPLICA_RECALLED = ProblemType(
    "replica-recalled", "The copy that this replica follows with was given up", 410, "Take a new snapshot."
)
PRECONDITION_FAILED = ProblemType(
    "precondition-failed", "A precondition does not hold", 412, "Read the current ETag, then try again."
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large", "The request body is too large", 413, "Send less, or raise the limit on the node."
)
URI_TOO_LONG = ProblemType("uri-too-long", "The request target is too long", 414, "Send a shorter path.")
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    "The body is of a type that is not understood here",
    415,
    "Send JSON with `Content-Type: application/json` and no Content-Encoding.",
)
RANGE_NOT_SATISFIABLE = ProblemType(
    "range-not-satisfiable", "The file does not have these bytes", 416, "Ask for a range within the size."
)
POSITION_AHEAD = ProblemType(
    "position-ahead", "The history has not come that far", 416, "Ask from the position in Forge-Head on."
)
UPGRADE_REQUIRED = ProblemType(
    "upgrade-required", "The path speaks another protocol", 426, "Connect with a WebSocket client, version 13."
)
UNPROCESSABLE = ProblemType("unprocessable", "The request makes no sense in this state", 422, "See the detail.")
TOO_MANY_REQUESTS = ProblemType(
    "too-many-requests", "Too much is waiting already", 429, "Wait as long as Retry-After says."
)
RATE_LIMITED = ProblemType(
    "rate-limited",
    "Too many requests in a short time",
    429,
    "Wait as long as Retry-After says, then more slowly.",
)
HEADERS_TOO_LARGE = ProblemType(
    "headers-too-large", "The request headers are too large", 431, "Send fewer or shorter headers."
)
INTERNAL = ProblemType(
    "internal", "The node failed", 500, "Report it with the request id; the node's log has the cause."
)
NOT_IMPLEMENTED = ProblemType("not-implemented", "The node cannot do this", 501, "See the detail.")
UNAVAILABLE = ProblemType(
    "unavailable", "The node cannot do this now", 503, "Wait as long as Retry-After says, then try again."
)
NOT_THE_WRITER = ProblemType(
    "not-the-writer",
    "This node does not take writes now",
    503,
    "Send it to the writer, if the reason or `forge lease status` names one. If the object store is away, bring that "
    "back: `forge status` says what it answers, and writes go on by themselves. Reads are answered here.",
)
NOT_HERE_YET = ProblemType(
    "not-here-yet",
    "This standby does not have that table, column, view or index",
    503,
    "If it is new, send the request again in a moment, or to the writer that the reason names; else correct the name.",
)
OUTCOME_UNKNOWN = ProblemType(
    "outcome-unknown",
    "The node cannot say yet whether the change was made",
    503,
    "Send the same request again: repeating it is safe, and it is answered once the log can be reached.",
)
DISK_FULL = ProblemType(
    "disk-full",
    "The disk of the node is full",
    503,
    "Free space on the disk that the detail names; the node goes on by itself. Then send the request again.",
)
PARTITION_STOPPED = ProblemType(
    "partition-stopped",
    "Writes to this part of the data are stopped",
    503,
    "An operator has to look: `forge doctor` and `GET /readyz` name the cause.",
)
INVALID_ARGUMENTS = ProblemType(
    "invalid-arguments",
    "The arguments do not fit the statement",
    400,
    "Send one argument per parameter: an array by position, or an object by name.",
)
RESULT_TOO_LARGE = ProblemType(
    "result-too-large",
    "The result is too large for one answer",
    413,
    "Ask for less with LIMIT, or read rows as a stream with `Accept: application/x-ndjson`.",
)
EXPECTATION_FAILED = ProblemType(
    "expectation-failed",
    "A statement did not do what was expected of it, so nothing was changed",
    409,
    "Read the current state, then decide again.",
)
INVALID_SQL = ProblemType(
    "invalid-sql", "The SQL statement is not valid", 400, "Correct the statement; the detail says what SQLite found."
)
NO_SYSTEM_TABLE = ProblemType(
    "no-system-table",
    "The document has no such table yet",
    400,
    "Forge makes its tables when they are first needed, in a document that takes writes.",
)
LEASE_HELD = ProblemType(
    "lease-held", "Somebody else holds the lease", 409, "Wait as long as Retry-After says, then try again."
)
LEASE_NOT_HELD = ProblemType(
    "lease-not-held", "The lease is not held any more", 404, "Acquire it again; what it protected may have changed."
)
LEASE_TOKEN = ProblemType(
    "lease-token", "The token does not prove the lease", 401, "Send the token that acquiring the lease answered."
)
STALE_FENCE = ProblemType(
    "stale-fence",
    "The lease that the change rests on is not held any more",
    412,
    "Stop: somebody else may hold the lease. Acquire it again before you go on.",
)
SIGNATURE = ProblemType(
    "invalid-signature",
    "The signature is not that of the sender",
    401,
    "Sign the exact bytes of the body with the secret that the endpoint is set to, within five minutes.",
)
NOT_STORED = ProblemType(
    "not-stored",
    "The webhook was not stored",
    500,
    "Mend the trigger or constraint on webhook_inbox; then it is taken.",
)
SQL_NOT_ALLOWED = ProblemType(
    "sql-not-allowed",
    "No statement may do this in a document",
    403,
    "Leave it out: documents take SELECT, INSERT, UPDATE, DELETE, and CREATE, ALTER and DROP of tables of their own.",
)
QUERY_TIMEOUT = ProblemType(
    "query-timeout",
    "The statement took too long and was stopped",
    408,
    "Make it do less: add an index or a LIMIT, or split it.",
)
CONSTRAINT = ProblemType(
    "constraint", "The change would break a constraint of the document", 409, "See the detail; nothing was changed."
)
QUERY_TOO_LARGE = ProblemType(
    "query-too-large",
    "The statement needs too much memory, or values that are too long",
    413,
    "Make it do less: fewer rows at a time, shorter values, a simpler statement.",
)
SYNC_CONFLICT = ProblemType(
    "sync-conflict", "The changes do not fit what is here now", 409, "Bring the copy up to date, then push again."
)
HTTP_VERSION = ProblemType("http-version", "The HTTP version is not supported", 505, "Use HTTP/1.1 (or HTTP/1.0).")

WAIT_OVER = ProblemType(
    "wait-over",
    "Nobody came in the time that the request would wait",
    408,
    "Send it again, or without `timeout` to wait as long as it takes.",
)
SWITCH_NAME_TAKEN = ProblemType(
    "switch-name-taken", "The name of the channel of the answer is taken", 409, "Choose another one, at random."
)
REQUESTER_GONE = ProblemType(
    "requester-gone", "Nobody waits for that answer any more", 410, "Nothing: the answer was dropped."
)
LEGACY_GONE = ProblemType("legacy-gone", "This is no longer here", 410, "See the detail.")
RELAY_BROKEN = ProblemType(
    "relay-broken", "The other side broke off", 502, "Send it again: perhaps somebody else takes it."
)
NO_ANSWER = ProblemType("no-answer", "The request was taken but not answered in time", 504, "Send it again.")

PROBLEM_TYPES = (
    BAD_REQUEST,
    INVALID_BODY,
    INVALID_PARAMETER,
    UNAUTHENTICATED,
    FORBIDDEN,
    NOT_FOUND,
    METHOD_NOT_ALLOWED,
    REQUEST_TIMEOUT,
    CONFLICT,
    DOCUMENT_ARCHIVED,
    DOCUMENT_DELETED,
    OTHER_HISTORY,
    HISTORY_GONE,
    REPLICA_RECALLED,
    PRECONDITION_FAILED,
    BODY_TOO_LARGE,
    URI_TOO_LONG,
    UNSUPPORTED_MEDIA_TYPE,
    RANGE_NOT_SATISFIABLE,
    POSITION_AHEAD,
    UNPROCESSABLE,
    UPGRADE_REQUIRED,
    TOO_MANY_REQUESTS,
    RATE_LIMITED,
    HEADERS_TOO_LARGE,
    INTERNAL,
    NOT_IMPLEMENTED,
    UNAVAILABLE,
    NOT_THE_WRITER,
    NOT_HERE_YET,
    OUTCOME_UNKNOWN,
    DISK_FULL,
    PARTITION_STOPPED,
    INVALID_ARGUMENTS,
    RESULT_TOO_LARGE,
    EXPECTATION_FAILED,
    INVALID_SQL,
    NO_SYSTEM_TABLE,
    LEASE_HELD,
    LEASE_NOT_HELD,
    LEASE_TOKEN,
    STALE_FENCE,
    SIGNATURE,
    NOT_STORED,
    SQL_NOT_ALLOWED,
    QUERY_TIMEOUT,
    CONSTRAINT,
    QUERY_TOO_LARGE,
    SYNC_CONFLICT,
    WAIT_OVER,
    SWITCH_NAME_TAKEN,
    REQUESTER_GONE,
    LEGACY_GONE,
    RELAY_BROKEN,
    NO_ANSWER,
    HTTP_VERSION,
)
"""All of them; a slug, once published, keeps its meaning."""


class Refusal(Exception):
    """Something was refused and nothing changed. Carries the problem to answer with, and HTTP headers beside it."""

    def __init__(self, problem: Problem, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.headers = headers or {}
