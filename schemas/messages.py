"""Messages of documents: the facts about them, and the commands that publish and prune."""

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, StringConstraints

from schemas.document import DocumentCommand, DocumentFact
from schemas.facts import QUICK_BYTES_MAX, Binary, Instant
from schemas.topics import Topic

PAYLOAD_BYTES_MAX = 1 << 20
BATCH_MESSAGES_MAX = 1000
BATCH_BYTES_MAX = 16 << 20
PRUNED_MAX = 10_000
QUICK_MESSAGES_MAX = 8
CONTENT_TYPE_DEFAULT = "application/json"
_PRINTABLE = r"^[\x20-\x7e]+$"

ContentType = Annotated[str, StringConstraints(max_length=255, pattern=_PRINTABLE)]
Producer = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
DedupeKey = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]


class NewMessage(BaseModel):
    """A message as somebody publishes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", val_json_bytes="base64", ser_json_bytes="base64")

    topic: Topic
    payload: Annotated[Binary, Field(max_length=PAYLOAD_BYTES_MAX)]
    content_type: ContentType = CONTENT_TYPE_DEFAULT
    producer: Producer | None = None
    dedupe_key: DedupeKey | None = None
    retain: bool = False


class PublishedMessage(BaseModel):
    """A message as it was published."""

    model_config = ConfigDict(frozen=True, extra="ignore", val_json_bytes="base64")

    topic: str
    payload: Binary
    content_type: str
    producer: str | None = None
    dedupe_key: str | None = None
    retain: bool = False


class MessagesPublished(DocumentFact):
    """Messages are there, with ids from `first_id` on. One to retain is the last value of its topic from now on.

    `steps` are there if triggers or foreign keys of the user had effects: then they say everything.
    """

    TYPE: ClassVar[str] = "forge.doc.messages.published"
    first_id: PositiveInt
    at: Instant
    messages: tuple[PublishedMessage, ...]

    @property
    def subject(self) -> str:
        """The topic of the first message."""
        return self.messages[0].topic

    @property
    def touched(self) -> tuple[str, ...]:
        """The tables that changed."""
        retained = ("retained_messages",) if any(message.retain for message in self.messages) else ()
        return tuple(dict.fromkeys(("messages", *retained, *self.tables)))


class MessagesPruned(DocumentFact):
    """Messages from `first_id` to `last_id`, which had `size_bytes` of payload together, are gone."""

    TYPE: ClassVar[str] = "forge.doc.messages.pruned"
    first_id: PositiveInt
    last_id: PositiveInt
    size_bytes: NonNegativeInt

    @property
    def subject(self) -> str:
        """The table."""
        return "messages"

    @property
    def touched(self) -> tuple[str, ...]:
        """The tables that changed."""
        return tuple(dict.fromkeys(("messages", *self.tables)))


class PublishMessages(DocumentCommand):
    """Publish messages, all or none, in their order.

    One whose `dedupe_key` a message of its topic that is still kept has already is not published again. The answer is
    `{"messages": [{"id", "topic", "content_type", "size_bytes", "created_at", "duplicate"}, ...]}`.
    """

    QUICK: ClassVar[bool] = True
    messages: Annotated[tuple[NewMessage, ...], Field(min_length=1, max_length=BATCH_MESSAGES_MAX)]

    @property
    def quick(self) -> bool:
        """Whether they are few and small."""
        return len(self.messages) <= QUICK_MESSAGES_MAX and self._size_bytes <= QUICK_BYTES_MAX

    @property
    def _size_bytes(self) -> int:
        return sum(len(message.payload) for message in self.messages)

    def model_post_init(self, _: Any) -> None:
        """Check what no field alone can tell."""
        if self._size_bytes > BATCH_BYTES_MAX:
            raise ValueError(f"the payloads of one command have at most {BATCH_BYTES_MAX} bytes together")


class PruneMessages(DocumentCommand):
    """Remove the oldest messages until the rest keeps these bounds, at most `PRUNED_MAX` of them at a time.

    The answer is `{"pruned": n, "more": whether there is more to remove, "oldest": when the oldest that is kept was
    published, or null}`.
    """

    max_age_s: Annotated[int, Field(gt=0)] | None = None
    max_count: Annotated[int, Field(gt=0)] | None = None
    max_bytes: Annotated[int, Field(gt=0)] | None = None
