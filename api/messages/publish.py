"""The routes that publish messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from api.fences import fences
from api.inputs import IF_FENCE, KEY, Input, flag_input, text
from api.leaving import given_up_when_client_leaves
from api.messages.bodies import BATCH_BODY_BYTES_MAX, OBJECT_BYTES_MAX, TOPIC_DEFAULT, read_message, read_messages
from api.positions import POSITION_HEADER, command_id
from api.problems import invalid_body
from api.routes import Reply, Request, Route
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.messages import NewMessage, PublishMessages
from schemas.problems import Refusal
from schemas.publishing import PublishBatchReply, PublishReply
from schemas.topics import TOPIC_LENGTH_MAX

ACTION = "pub.publish"
_PATH = "/api/v1/db/{db_id}/messages"
_INPUTS: tuple[Input, ...] = (
    text(
        "topic",
        "The body is the payload itself, and its type the Content-Type; a body that is no JSON object is that too, "
        f"with the topic `{TOPIC_DEFAULT}`.",
        maxLength=TOPIC_LENGTH_MAX,
    ),
    text("dedupe_key", "As in the JSON form.", maxLength=255),
    text("producer", "As in the JSON form.", maxLength=255),
    flag_input("retain", "As in the JSON form."),
    KEY,
    IF_FENCE,
)


@dataclass(frozen=True, slots=True)
class PublishApi:
    """The handlers, with what they need."""

    registry: Registry
    partitions: Partitions
    ack_timeout_s: float

    def routes(self) -> Sequence[Route]:
        """Return the route table of publishing."""
        return (
            Route(
                "POST",
                _PATH,
                ACTION,
                self.publish,
                below=True,
                streaming=True,
                body_bytes_max=OBJECT_BYTES_MAX,
                inputs=_INPUTS,
                replies={
                    200: PublishReply,
                    201: PublishReply,
                    412: "a lease that If-Fence names is not held",
                    415: "the body is compressed",
                },
                summary="Publish a message; 200 if its dedupe_key was known",
            ),
            Route(
                "POST",
                f"{_PATH}/batch",
                ACTION,
                self.publish_batch,
                below=True,
                streaming=True,
                body_bytes_max=BATCH_BODY_BYTES_MAX,
                inputs=(KEY, IF_FENCE),
                replies={
                    201: PublishBatchReply,
                    412: "a lease that If-Fence names is not held",
                    415: "the body is compressed",
                },
                summary='Publish up to 1,000 messages, all or none: `{"messages": [...]}`',
            ),
        )

    async def publish(self, request: Request[None]) -> Reply:
        """Publish one message; it is durable when this answers."""
        self.registry.require(request.db_id, for_writing=True)
        message = await read_message(request)
        request.require(ACTION, message.topic)
        answer = await self._submit(request, (message,))
        told = answer.value["messages"][0]
        return Reply(200 if told["duplicate"] else 201, _view(request, told), {POSITION_HEADER: str(answer.position)})

    async def publish_batch(self, request: Request[None]) -> Reply:
        """Publish several messages, all or none."""
        self.registry.require(request.db_id, for_writing=True)
        messages = await read_messages(request)
        for topic in dict.fromkeys(message.topic for message in messages):
            request.require(ACTION, topic)
        answer = await self._submit(request, messages)
        told = [{**_view(request, one), "duplicate": one["duplicate"]} for one in answer.value["messages"]]
        return Reply(201, {"messages": told}, {POSITION_HEADER: str(answer.position)})

    async def store(self, request: Request[Any], topic: str, payload: bytes, content_type: str) -> int:
        """Publish what passed elsewhere, for whoever sent `request`; return the message's id."""
        self.registry.require(request.db_id, for_writing=True)
        try:
            message = NewMessage(topic=topic, payload=payload, content_type=content_type)
        except ValidationError as error:
            raise Refusal(invalid_body(error)) from None
        answer = await self._submit(request, (message,))
        return int(answer.value["messages"][0]["id"])

    async def _submit(self, request: Request[Any], messages: Sequence[NewMessage]) -> Answer:
        command = PublishMessages(messages=tuple(messages), fences=fences(request))
        with given_up_when_client_leaves(request):
            return await self.partitions.submit(
                document_partition(request.db_id),
                command,
                principal=request.caller.name,
                command_id=command_id(request),
                timeout_s=self.ack_timeout_s,
            )


def _view(request: Request[None], told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": told["id"],
        "db_id": request.db_id,
        "topic": told["topic"],
        "content_type": told["content_type"],
        "size_bytes": told["size_bytes"],
        "created_at": told["created_at"],
    }
