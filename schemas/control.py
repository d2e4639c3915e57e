"""The control domain: which documents and tokens there are. Its facts and its commands."""

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints

from schemas.facts import Command, Fact, Instant, facts_by_type
from schemas.ids import DbId, parse_db_id
from schemas.replicas import (
    EvictReplica,
    NoteReplicas,
    RecallReplica,
    ReplicaEvicted,
    ReplicaRecalled,
    ReplicasReported,
)
from schemas.scopes import ACTIONS as ACTIONS
from schemas.scopes import Scope, WantedScope
from schemas.webhook_endpoints import (
    RemoveWebhookEndpoint,
    SetWebhookEndpoint,
    WebhookEndpointRemoved,
    WebhookEndpointSet,
)
from schemas.writer_lease import WriterTaken

NAME_LENGTH_MAX = 200
LABEL_LENGTH_MAX = 120
SCOPES_MAX = 100
TOKENS_USED_MAX = 5000  # in one fact; more are told by the next one


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("only printable characters, in one line")
    return text


def _no_duplicates(scopes: tuple[WantedScope, ...]) -> tuple[WantedScope, ...]:
    seen: set[WantedScope] = set()
    for scope in scopes:
        if scope in seen:
            raise ValueError(f"the scope {scope} is there twice")
        seen.add(scope)
    return scopes


def _line(length_max: int) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=1, max_length=length_max)


NewDbId = Annotated[str, AfterValidator(parse_db_id)]
DocumentName = Annotated[str, _line(NAME_LENGTH_MAX), AfterValidator(_printable)]
Label = Annotated[str, _line(LABEL_LENGTH_MAX), AfterValidator(_printable)]
Scopes = Annotated[tuple[WantedScope, ...], Field(max_length=SCOPES_MAX), AfterValidator(_no_duplicates)]
RetentionBound = Annotated[int | None, Field(gt=0, le=1 << 53)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{24}$")]
TokenHash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class RegistryFact(Fact):
    """Something became true of the document `db_id` as a whole."""

    db_id: DbId

    @property
    def subject(self) -> str:
        """The document."""
        return self.db_id


class DocumentCreated(RegistryFact):
    """A document exists; it belongs to `owner`."""

    TYPE: ClassVar[str] = "forge.control.document.created"
    name: str
    owner: str


class DocumentRenamed(RegistryFact):
    """A document has another name for people; its `db_id` stays."""

    TYPE: ClassVar[str] = "forge.control.document.renamed"
    name: str


class DocumentArchived(RegistryFact):
    """A document takes no writes any more."""

    TYPE: ClassVar[str] = "forge.control.document.archived"


class DocumentUnarchived(RegistryFact):
    """An archived document takes writes again."""

    TYPE: ClassVar[str] = "forge.control.document.unarchived"


class DocumentDeleted(RegistryFact):
    """A document is gone for everybody; its history is kept."""

    TYPE: ClassVar[str] = "forge.control.document.deleted"


class DocumentUndeleted(RegistryFact):
    """A deleted document is back as it was."""

    TYPE: ClassVar[str] = "forge.control.document.undeleted"


class MessageRetentionSet(RegistryFact):
    """A document keeps the newest of its messages that keep these bounds, and removes older ones; None: no bound."""

    TYPE: ClassVar[str] = "forge.control.retention.set"
    max_age_s: int | None = None
    max_count: int | None = None
    max_bytes: int | None = None


class TokenMinted(Fact):
    """A token is valid, by the will of `created_by`. Only its SHA-256 is known, and `prefix` to recognise it by.

    One that is for a `url` may also be given there, where a route takes that.
    """

    TYPE: ClassVar[str] = "forge.control.token.minted"
    token_id: str
    hash: str
    prefix: str
    label: str
    is_admin: bool = False
    scopes: tuple[Scope, ...] = ()
    expires_at: Instant | None = None
    created_by: str
    url: bool = False

    @property
    def subject(self) -> str:
        """The token."""
        return self.token_id


class TokenRevoked(Fact):
    """A token is no longer valid, for ever."""

    TYPE: ClassVar[str] = "forge.control.token.revoked"
    token_id: str

    @property
    def subject(self) -> str:
        """The token."""
        return self.token_id


class TokensUsed(Fact):
    """These tokens were used a short while ago."""

    TYPE: ClassVar[str] = "forge.control.token.used"
    token_ids: tuple[str, ...]

    @property
    def subject(self) -> str:
        """The first token."""
        return self.token_ids[0] if self.token_ids else ""


DocumentChange = (
    DocumentCreated | DocumentRenamed | DocumentArchived | DocumentUnarchived | DocumentDeleted | DocumentUndeleted
)
ControlFact = (
    DocumentChange
    | MessageRetentionSet
    | TokenMinted
    | TokenRevoked
    | TokensUsed
    | WebhookEndpointSet
    | WebhookEndpointRemoved
    | ReplicasReported
    | ReplicaEvicted
    | ReplicaRecalled
    | WriterTaken
)
FACTS = facts_by_type(
    DocumentCreated,
    DocumentRenamed,
    DocumentArchived,
    DocumentUnarchived,
    DocumentDeleted,
    DocumentUndeleted,
    MessageRetentionSet,
    TokenMinted,
    TokenRevoked,
    TokensUsed,
    WebhookEndpointSet,
    WebhookEndpointRemoved,
    ReplicasReported,
    ReplicaEvicted,
    ReplicaRecalled,
    WriterTaken,
)


class CreateDocument(Command):
    """Make a document that belongs to `by`. If `by` has it already that is said, and nothing changes."""

    QUICK: ClassVar[bool] = True
    db_id: NewDbId
    name: DocumentName | None = None
    by: str


class RenameDocument(Command):
    """Give a document another name for people."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    name: DocumentName


class ArchiveDocument(Command):
    """Let a document take no writes any more, or, unless `archived`, let it take them again."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    archived: bool = True


class DeleteDocument(Command):
    """Take a document away from everybody, or, unless `deleted`, bring it back."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    deleted: bool = True


class SetMessageRetention(Command):
    """Let a document keep only the newest messages that keep these bounds; without any it keeps all."""

    QUICK: ClassVar[bool] = True
    db_id: DbId
    max_age_s: RetentionBound = None
    max_count: RetentionBound = None
    max_bytes: RetentionBound = None


class MintToken(Command):
    """Make a token valid, for `by`, who can only hand on what he holds. The secret itself never comes here."""

    QUICK: ClassVar[bool] = True
    hash: TokenHash
    prefix: Annotated[str, Field(max_length=16)]
    label: Label
    is_admin: bool = False
    scopes: Scopes = ()
    expires_at: Instant | None = None
    url: bool = False
    by: str


class RevokeToken(Command):
    """End a token, for `by`."""

    QUICK: ClassVar[bool] = True
    token_id: str
    by: str


class NoteTokensUsed(Command):
    """Remember that tokens were used just now."""

    token_ids: Annotated[tuple[TokenId, ...], Field(max_length=TOKENS_USED_MAX)]


COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind
    for kind in (
        CreateDocument,
        RenameDocument,
        ArchiveDocument,
        DeleteDocument,
        SetMessageRetention,
        MintToken,
        RevokeToken,
        NoteTokensUsed,
        SetWebhookEndpoint,
        RemoveWebhookEndpoint,
        NoteReplicas,
        EvictReplica,
        RecallReplica,
    )
}
