"""The command door: clients that live on NATS send commands to `forge.cmd.<partition>` and get the answer back.

Nobody appends to the log directly: a command is authorised and decided here like one that came by HTTP.
"""

from blake3 import blake3
from fast_depends.exceptions import ValidationError
from faststream import ExceptionMiddleware
from faststream.nats import NatsBroker, NatsMessage
from faststream.security import SASLPlaintext
from pydantic import ValidationError as InvalidCommand
from pydantic_core import to_json

from api.auth import Authenticator
from api.problems import invalid_body
from events.connection import SERVER_OPTIONS, server_options
from projectors.partitions import Partitions
from schemas.door import CommandReply, CommandRequest
from schemas.ids import InvalidId, PartitionId
from schemas.problems import FORBIDDEN, INVALID_BODY, NOT_FOUND, UNAUTHENTICATED, Refusal

COMMAND_TIMEOUT_S = 30.0
COMMANDS_MAX = 1024  # decided at the same time; more wait in the subscription
QUEUE = "forge-command-door"
SUBJECTS = "forge.cmd.>"


def command_scope(partition: PartitionId) -> str:
    """Return the scope that commands to a partition need."""
    return f"{partition.domain}.command"


def command_door(url: str, partitions: Partitions, authenticator: Authenticator) -> NatsBroker:
    """Return the broker that serves the door with the NATS user of `url`; start and stop it."""
    options = server_options(url)
    broker = NatsBroker(
        options["servers"],
        security=SASLPlaintext(options.get("user", ""), options.get("password", "")),
        name="forge-commands",
        inbox_prefix="_INBOX_live",
        description="Commands to a partition, answered once they are durable.",
        middlewares=(ExceptionMiddleware(publish_handlers={ValidationError: _unreadable}),),
        logger=None,
        **SERVER_OPTIONS,
    )

    @broker.subscriber(
        SUBJECTS,
        queue=QUEUE,
        max_workers=COMMANDS_MAX,
        title="commands",
        description="Reply: position and answer, or a problem.",
    )
    async def take(request: CommandRequest, message: NatsMessage) -> CommandReply:
        try:
            return await _decide(request, message.raw_message.subject, partitions, authenticator)
        except Refusal as refusal:
            return CommandReply(problem=refusal.problem)

    return broker


def _unreadable(error: ValidationError) -> CommandReply:
    return CommandReply(problem=INVALID_BODY.problem(f"not a command request: {error}"))


async def _decide(
    request: CommandRequest, subject: str, partitions: Partitions, authenticator: Authenticator
) -> CommandReply:
    partition = _partition(subject)
    principal = authenticator.authenticate(f"Bearer {request.token}")
    if principal is None:
        raise Refusal(UNAUTHENTICATED.problem("the token is not known"))
    if not authenticator.allows(principal, scope := command_scope(partition)):
        raise Refusal(FORBIDDEN.problem(f"commands to {partition} need the scope {scope}"))
    try:
        kind = partitions.domain(partition.domain).commands[request.name]
        command = kind.model_validate_json(to_json(request.command))
    except KeyError:
        raise Refusal(NOT_FOUND.problem(f"{partition} takes no command {request.name[:80]!r}")) from None
    except InvalidCommand as error:
        raise Refusal(invalid_body(error)) from error
    answer = await partitions.submit(
        partition,
        command,
        principal=principal.name,
        command_id=_command_id(principal.name, request.command_id),
        timeout_s=COMMAND_TIMEOUT_S,
    )
    return CommandReply(position=str(answer.position), answer=answer.value)


def _partition(subject: str) -> PartitionId:
    try:
        return PartitionId.parse(subject.replace("forge.cmd.", "forge.log.", 1))
    except InvalidId as error:
        raise Refusal(INVALID_BODY.problem(str(error))) from error


def _command_id(principal: str, key: str | None) -> str | None:
    return blake3(f"{principal}\0{key}".encode()).hexdigest(16) if key else None
