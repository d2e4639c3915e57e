"""Publishing over NATS, for programs that live there: the same methods and errors as over HTTP.

The address is what `forge config nats` prints; every command carries the token.
"""

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from pydantic import ValidationError
from ulid import ULID

from api.problems import invalid_body
from events.connection import Connection
from events.errors import LogError, MessageTooLarge
from forge.client.errors import ForgeError, NodeUnreachable, UnexpectedAnswer
from forge.client.fences import Fenced
from forge.client.message_replies import Published, new_message
from forge.client.retry import RETRIED_STATUSES, Retry
from forge.client.transport import problem_from
from projectors.tasks import end
from schemas.door import CommandReply, CommandRequest
from schemas.fences import Fence
from schemas.ids import PartitionId, Position, parse_db_id
from schemas.messages import PublishMessages
from schemas.problems import BODY_TOO_LARGE, Refusal
from schemas.publishing import PublishRequest

TIMEOUT_S = 35.0  # a little more than the node waits for the log
CONNECT_S = 5.0
_INBOX = "_INBOX_client"
_HEADERS = {"content-type": "application/json"}


class NatsPublisher:
    """A connection to the NATS server of a node; use it with `async with`.

    `db("home").publish(...)` is repeated like a request over HTTP, under one key, so that it happens once. It raises
    `ForgeError`, `NodeUnreachable` and `UnexpectedAnswer` as the methods of `ForgeClient` do.
    """

    def __init__(self, nats_url: str, token: str, *, timeout_s: float = TIMEOUT_S, retry: Retry | None = None) -> None:
        self._connection = Connection(nats_url, _INBOX, "forge-client")
        self._shown = nats_url.rpartition("@")[2]  # without the password
        self._token = token
        self._timeout_s = timeout_s
        self._retry = retry or Retry()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    def db(self, db_id: str) -> "NatsDocument":
        """Return the document `db_id`, without asking whether there is one; raise `InvalidId`."""
        return NatsDocument(self, parse_db_id(db_id))

    async def submit(self, partition: PartitionId, name: str, command: dict[str, Any]) -> tuple[Any, Position]:
        """Have a command decided, repeating it as `retry` says; return the answer and where it can be read."""
        request = CommandRequest(token=self._token, name=name, command=command, command_id=str(ULID()))
        body = request.model_dump_json().encode()
        loop = asyncio.get_running_loop()
        started, failures = loop.time(), 0
        while True:
            try:
                return await self._once(partition.command_subject, body)
            except NodeUnreachable as error:
                problem: ForgeError | NodeUnreachable = error
                asked_s, budget_s = None, self._retry.unreachable_s
            except ForgeError as error:
                if error.status not in RETRIED_STATUSES:
                    raise
                problem, asked_s, budget_s = error, error.retry_after, self._retry.total_s
            failures += 1
            wait_s = self._retry.wait_s(failures, asked_s)
            if failures >= self._retry.attempts or loop.time() - started + wait_s > budget_s:
                raise problem
            await asyncio.sleep(wait_s)

    async def _connect(self) -> None:
        """Connect, or raise `NodeUnreachable`: by itself nats-py tries for ever, and may pass over a cancellation."""
        connecting = asyncio.ensure_future(self._connection.client())
        try:
            await asyncio.wait((connecting,), timeout=CONNECT_S)
            if not connecting.done():
                raise NodeUnreachable(self._shown, f"no connection within {CONNECT_S:g} s")
            await connecting
        finally:
            await end(connecting)

    async def _once(self, subject: str, body: bytes) -> tuple[Any, Position]:
        try:
            if not self._connection.connected:
                await self._connect()
            message = await self._connection.request(subject, body, _HEADERS, timeout_s=self._timeout_s)
        except MessageTooLarge as error:
            problem = BODY_TOO_LARGE.problem(str(error), fix="Publish fewer messages together.")
            raise problem_from(problem.status, problem.body()) from error
        except LogError as error:
            raise NodeUnreachable(self._shown, str(error)) from error
        try:
            reply = CommandReply.model_validate_json(message.data)
            if reply.problem is None and reply.position is not None:
                return reply.answer, Position.parse(reply.position)
        except ValueError as error:
            raise UnexpectedAnswer(self._shown, str(error)) from error
        if reply.problem is None:
            raise UnexpectedAnswer(self._shown, "an answer without a position")
        raise problem_from(reply.problem.status, reply.problem.body())


class NatsDocument:
    """What can be done with a document over NATS."""

    def __init__(self, publisher: NatsPublisher, db_id: str) -> None:
        self.db_id = db_id
        self._publisher = publisher
        self._partition = PartitionId("doc", db_id)

    async def publish(
        self,
        topic: str,
        payload: Any = None,
        *,
        text: str | None = None,
        content_type: str | None = None,
        producer: str | None = None,
        key: str | None = None,
        retain: bool = False,
        fences: Sequence[Fenced] = (),
    ) -> Published:
        """Publish a message, as `forge.client.Document.publish` does."""
        more: dict[str, Any] = {"content_type": content_type, "producer": producer, "key": key, "retain": retain}
        (published,) = await self._publish([new_message(topic, payload, text=text, **more)], fences)
        return published

    async def publish_batch(
        self, messages: Sequence[Mapping[str, Any]], *, fences: Sequence[Fenced] = ()
    ) -> list[Published]:
        """Publish up to 1,000 messages, all or none, as `forge.client.Document.publish_batch` does."""
        return await self._publish([new_message(**message) for message in messages], fences)

    async def _publish(self, messages: Sequence[Mapping[str, Any]], fences: Sequence[Fenced]) -> list[Published]:
        try:
            held = tuple(Fence(resource=one.resource, fence=one.fence) for one in fences)
            new = tuple(PublishRequest.model_validate(message).message() for message in messages)
            command = PublishMessages(messages=new, fences=held)
        except Refusal as refusal:
            raise problem_from(refusal.problem.status, refusal.problem.body()) from None
        except ValidationError as error:
            problem = invalid_body(error)
            raise problem_from(problem.status, problem.body()) from None
        body = command.model_dump(mode="json")
        answer, position = await self._publisher.submit(self._partition, "PublishMessages", body)
        try:
            return [Published.read(one, position) for one in answer["messages"]]
        except (KeyError, TypeError, ValueError) as error:
            raise UnexpectedAnswer(self.db_id, repr(error)) from error
