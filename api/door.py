"""The command door: clients that live on NATS send commands to `forge.cmd.<partition>` and get the answer back.

Nobody appends to the log directly: a command is authorised and decided here like one that came by HTTP.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import structlog
from blake3 import blake3
from faststream.nats import NatsBroker
from faststream.security import SASLPlaintext
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from pydantic import ValidationError as InvalidCommand
from pydantic_core import to_json

from api.answer import cancel_all
from api.auth import Authoriser, Principal
from api.problems import invalid_body
from events.connection import SERVER_OPTIONS, server_options
from projectors.partitions import Partitions
from schemas.document import PushChanges, RunSql
from schemas.door import CommandReply, CommandRequest
from schemas.facts import Command
from schemas.ids import InvalidId, PartitionId
from schemas.leases import AcquireLease, ReleaseLease, RenewLease
from schemas.messages import PublishMessages
from schemas.problems import FORBIDDEN, INVALID_BODY, NOT_FOUND, UNAUTHENTICATED, Refusal

COMMAND_TIMEOUT_S = 30.0
COMMANDS_MAX = 1024  # decided at the same time; more wait in the subscription
COMMANDS_BYTES_MAX = 64 << 20  # of them together
QUEUE = "forge-command-door"
SUBJECTS = "forge.cmd.>"
STOP_S = 10.0

log = structlog.get_logger(__name__)


class Documents(Protocol):
    """What the door must know about documents."""

    def require(self, db_id: str, *, for_writing: bool = False) -> object:
        """Raise `Refusal` unless the document can be read, or written."""


def needs(command: Command) -> Sequence[tuple[str, str]] | None:
    """Return what a command needs, all of it: actions, each with its resource; None: only an admin may send it."""
    match command:
        case RunSql():
            return [(f"query.{one}", "/query/exec") for one in command.classes or ("read",)]
        case PushChanges():
            return [("query.write", "/sync/push")]
        case PublishMessages():
            return [("pub.publish", topic) for topic in dict.fromkeys(one.topic for one in command.messages)]
        case AcquireLease():
            return [("lease.acquire", command.resource)]
        case RenewLease():
            return [("lease.renew", command.resource)]
        case ReleaseLease():
            return [("lease.release", command.resource)]
    return None


class CommandDoor:
    """Serves the door. FastStream connects and describes it (`broker`).

    It does not hand over what arrives: what it does for each message takes ten times as long as deciding a small
    command, and a door is for many of these.
    """

    def __init__(
        self, url: str, partitions: Partitions, authoriser: Authoriser, documents: Documents | None = None
    ) -> None:
        """Serve with the NATS user of `url`."""
        self.broker = _described(url)
        self._partitions = partitions
        self._authoriser = authoriser
        self._documents = documents
        self._free = asyncio.Semaphore(COMMANDS_MAX)
        self._taken: set[asyncio.Task[None]] = set()
        self.taken_bytes = 0
        self._room = asyncio.Event()
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Connect and take commands."""
        client = await self.broker.connect()
        self._subscription = await client.subscribe(SUBJECTS, queue=QUEUE, cb=self._take)

    async def stop(self) -> None:
        """Take no more; those that were taken are answered first, unless that takes too long."""
        if self._subscription is not None:
            with suppress(NatsError, TimeoutError):
                # What has arrived is taken.
                await asyncio.wait_for(self._subscription.drain(), STOP_S)  # type: ignore[no-untyped-call]  # of nats-py
        if self._taken:
            await asyncio.wait(self._taken, timeout=STOP_S)
        await cancel_all(self._taken)
        await self.broker.stop()

    async def _take(self, message: Msg) -> None:
        size = len(message.data)
        while self.taken_bytes and self.taken_bytes + size > COMMANDS_BYTES_MAX:
            self._room.clear()
            await self._room.wait()
        await self._free.acquire()
        self.taken_bytes += size
        task = asyncio.create_task(self._answer(message))
        self._taken.add(task)
        task.add_done_callback(partial(self._done, size))

    def _done(self, size: int, task: asyncio.Task[None]) -> None:
        self._taken.discard(task)
        self.taken_bytes -= size
        self._room.set()
        self._free.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a command of the door failed", exc_info=error)

    async def _answer(self, message: Msg) -> None:
        try:
            request = CommandRequest.model_validate_json(message.data)
            reply = await _decide(request, message.subject, self._partitions, self._authoriser, self._documents)
        except Refusal as refusal:
            reply = CommandReply(problem=refusal.problem)
        except InvalidCommand as error:
            why = invalid_body(error).detail  # without what was sent: that holds a token
            reply = CommandReply(problem=INVALID_BODY.problem(f"not a command request: {why}"))
        if message.reply:
            with suppress(NatsError):  # whoever asked will ask again
                await message.respond(reply.model_dump_json().encode())


def _described(url: str) -> NatsBroker:
    """Return the connection of the door, and what the AsyncAPI document says of it."""
    options = server_options(url)
    broker = NatsBroker(
        options["servers"],
        security=SASLPlaintext(options.get("user", ""), options.get("password", "")),
        name="forge-commands",
        inbox_prefix="_INBOX_live",
        description="Commands to a partition, answered once they are durable.",
        logger=None,
        **SERVER_OPTIONS,
    )

    @broker.subscriber(
        SUBJECTS,
        queue=QUEUE,
        title="commands",
        description="Reply: position and answer, or a problem.",
    )
    async def take(request: CommandRequest) -> CommandReply:
        raise NotImplementedError  # it only says what goes in and out

    return broker


async def _decide(
    request: CommandRequest,
    subject: str,
    partitions: Partitions,
    authoriser: Authoriser,
    documents: Documents | None,
) -> CommandReply:
    partition = _partition(subject)
    principal = authoriser.authenticate(f"Bearer {request.token}")
    if principal is None:
        raise Refusal(UNAUTHENTICATED.problem(authoriser.why_not(f"Bearer {request.token}")))
    try:
        kind = partitions.domain(partition.domain).commands[request.name]
        command = kind.model_validate_json(to_json(request.command))
    except KeyError:
        raise Refusal(NOT_FOUND.problem(f"{partition} takes no command {request.name[:80]!r}")) from None
    except InvalidCommand as error:
        raise Refusal(invalid_body(error)) from error
    command = _named(command, principal)
    _authorise(authoriser, principal, partition, command)
    if documents is not None and partition.domain == "doc":
        reads_only = isinstance(command, RunSql) and set(command.classes) <= {"read"}
        documents.require(partition.key, for_writing=not reads_only)
    answer = await partitions.submit(
        partition,
        command,
        principal=principal.name,
        command_id=_command_id(principal.name, request.command_id),
        timeout_s=COMMAND_TIMEOUT_S,
    )
    return CommandReply(position=str(answer.position), answer=answer.value)


def _named(command: Command, principal: Principal) -> Command:
    """Let a command that leaves open who it is from be from its sender."""
    if getattr(command, "by", None) == "":
        return command.model_copy(update={"by": principal.name})
    return command


def _authorise(authoriser: Authoriser, principal: Principal, partition: PartitionId, command: Command) -> None:
    name = type(command).__name__
    if getattr(command, "by", principal.name) != principal.name:
        raise Refusal(FORBIDDEN.problem(f"{name} says that it comes from somebody else than {principal.name}"))
    needed = needs(command)
    if principal.is_admin:
        return
    if needed is None:
        raise Refusal(FORBIDDEN.problem(f"{name} to {partition} needs an admin token"))
    for action, resource in needed:
        if not authoriser.allows(principal, action, partition.key, resource):
            raise Refusal(FORBIDDEN.problem(f"{name} to {partition} needs the scope {action} on it, {resource}"))


def _partition(subject: str) -> PartitionId:
    try:
        return PartitionId.parse(subject.replace("forge.cmd.", "forge.log.", 1))
    except InvalidId as error:
        raise Refusal(INVALID_BODY.problem(str(error))) from error


def _command_id(principal: str, key: str | None) -> str | None:
    return blake3(f"{principal}\0{key}".encode()).hexdigest(16) if key else None
