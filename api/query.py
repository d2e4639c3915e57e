"""The routes of queries: one statement, several at once, and reads of any size as a stream."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from api.at import AT, Past
from api.behind import asking_the_writer, is_missing
from api.fences import fences, refuse_fences
from api.inputs import AT_INPUT, IF_FENCE, IF_MATCH, KEY, MIN_POSITION
from api.leaving import given_up_when_client_leaves
from api.positions import MIN_POSITION_HEADER, POSITION_HEADER, await_position, command_id
from api.routes import Reply, Request, Route, StreamReply
from api.row_lines import NDJSON, RowLines
from events.write_guard import WriteGuard
from projectors.control.registry import Registry
from projectors.document.domain import document_partition
from projectors.document.reads.quick import QuickReads
from projectors.document.reads.reading import DocumentReaders
from projectors.document.reads.row_stream import RowStreams
from projectors.document.sql.bounds import SqlBounds
from projectors.document.sql.classes import KnownClasses, NotARead
from projectors.document.sql.permissions import CLASSES
from projectors.document.sql.results import Results
from projectors.document.sql.statements import naming
from projectors.outcome import Answer
from projectors.partitions import Partitions
from schemas.document import RunSql, SqlClass, Statement
from schemas.ids import InvalidId, Position
from schemas.problems import BAD_REQUEST, FORBIDDEN, INVALID_PARAMETER, PRECONDITION_FAILED, Refusal
from schemas.query import BatchReply, BatchRequest, ExecReply, ExecRequest, QueryOptions

BODY_BYTES_MAX = 32 << 20
INPUTS = (AT_INPUT, IF_FENCE, IF_MATCH, KEY, MIN_POSITION)
SCOPES = tuple(f"query.{kind}" for kind in CLASSES)
_SCOPE_OF = tuple(zip(CLASSES, SCOPES, strict=True))


@dataclass(frozen=True, slots=True)
class QueryApi:
    """The handlers, with what they need."""

    registry: Registry
    partitions: Partitions
    readers: DocumentReaders
    streams: RowStreams
    ack_timeout_s: float
    past: Past
    standby: WriteGuard | None = None
    known: KnownClasses = field(default_factory=KnownClasses)
    reads: QuickReads = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", QuickReads(self.readers))

    def routes(self) -> Sequence[Route]:
        """Return the route table of queries."""
        return (
            Route(
                "POST",
                "/api/v1/db/{db_id}/query/exec",
                SCOPES,
                self.exec,
                body=ExecRequest,
                body_bytes_max=BODY_BYTES_MAX,
                resource="/query/exec",
                replies={200: ExecReply},
                media={200: (NDJSON,)},
                inputs=INPUTS,
                summary="Run one SQL statement; with `Accept: application/x-ndjson` rows come as lines",
            ),
            Route(
                "POST",
                "/api/v1/db/{db_id}/query/batch",
                SCOPES,
                self.batch,
                body=BatchRequest,
                body_bytes_max=BODY_BYTES_MAX,
                resource="/query/batch",
                replies={200: BatchReply},
                inputs=INPUTS,
                summary="Run several SQL statements, all or none",
            ),
        )

    async def exec(self, request: Request[ExecRequest]) -> Reply | StreamReply:
        """Run one statement: a read beside the writer, anything else as a command."""
        body, statements = request.body, (request.body.statement,)
        await self._arrive(request)
        if NDJSON in request.headers.get("accept", ""):
            return await self._stream(request)
        with given_up_when_client_leaves(request), self._asking_the_writer(request):
            if (read := await self._read(request, statements, body.options, numbered=False)) is not None:
                results, position = read
                return _reply(results.all[0].json(), position)
            answer = await self._write(request, statements, body.options)
        return _reply(answer.value["results"][0], answer.position)

    async def batch(self, request: Request[BatchRequest]) -> Reply:
        """Run several statements: reads on one state, anything else as one command."""
        body = request.body
        await self._arrive(request)
        with given_up_when_client_leaves(request), self._asking_the_writer(request):
            if (read := await self._read(request, body.statements, body.options, numbered=True)) is not None:
                results, position = read
                return _reply(results.json(), position)
            with naming(0) if len(body.statements) == 1 else nullcontext():  # of several the command says which
                answer = await self._write(request, body.statements, body.options)
        return _reply(answer.value, answer.position)

    async def _arrive(self, request: Request[Any]) -> None:
        self.registry.require(request.db_id)
        if AT in request.query or NDJSON in request.headers.get("accept", ""):
            refuse_fences(request.headers, "neither reads of the past nor streams of rows rest on a lease")
        if MIN_POSITION_HEADER in request.headers:
            await await_position(request, self.partitions[document_partition(request.db_id)])

    async def _read(
        self, request: Request[Any], statements: Sequence[Statement], options: QueryOptions, *, numbered: bool
    ) -> tuple[Results, Position] | None:
        """Return the results if all statements are reads, None if the command must decide about them."""
        classes = _classes(request)
        db_id, bounds = request.db_id, self._bounds(options)
        if AT in request.query:
            return await self.past.read(request, statements, bounds, numbered=numbered)
        if "read" not in classes or fences(request):  # only the commit loop can tell what holds at that moment
            return None
        if any(self.known.find(db_id, one.sql) in classes for one in statements):
            return None

        try:
            results, position = await self.reads.run(db_id, statements, bounds, numbered=numbered)
        except NotARead as found:
            if found.kind not in classes:
                why = f"the statement needs query.{found.kind}, which the token does not have on {db_id}"
                raise Refusal(FORBIDDEN.problem(why)) from None
            self.known.note(db_id, found.sql, found.kind)
            return None
        except Refusal as refusal:
            # It may have happened before, and not be possible a second time: the command knows, but for a standby.
            here = self.standby is None or not is_missing(refusal.problem)
            if here and refusal.problem.status == BAD_REQUEST.status and command_id(request) and len(classes) > 1:
                return None
            raise
        if (expected := expected_position(request)) is not None and expected != position:
            raise Refusal(PRECONDITION_FAILED.problem(f"{db_id} is at {position}, not at {expected}"))
        return results, position

    async def _write(self, request: Request[Any], statements: Sequence[Statement], options: QueryOptions) -> Answer:
        self.registry.require(request.db_id, for_writing=True)
        command = RunSql(
            statements=tuple(statements),
            classes=_classes(request),
            timeout_s=options.timeout_seconds,
            max_rows=options.max_rows,
            fences=fences(request),
        )
        return await self.partitions.submit(
            document_partition(request.db_id),
            command,
            principal=request.caller.name,
            command_id=command_id(request),
            expected=expected_position(request),
            timeout_s=self.ack_timeout_s,
        )

    def _asking_the_writer(self, request: Request[Any]) -> AbstractContextManager[None]:
        return asking_the_writer(None if AT in request.query else self.standby)  # what was is the same everywhere

    async def _stream(self, request: Request[ExecRequest]) -> StreamReply:
        if not request.allows("query.read"):
            raise Refusal(FORBIDDEN.problem(f"reading a stream needs query.read on {request.db_id}"))
        body, bounds = request.body, self._bounds(request.body.options)
        try:
            if AT in request.query:
                stream = await self.past.stream(request, body.statement, bounds)
            else:
                with self._asking_the_writer(request):
                    stream = await self.streams.open(request.db_id, body.statement, bounds)
        except NotARead as found:
            why = f"only reads are streamed, the statement is of class {found.kind}"
            fix = "Send it without `Accept: application/x-ndjson`."
            raise Refusal(INVALID_PARAMETER.problem(why, fix=fix, field="Accept")) from None
        headers = {POSITION_HEADER: str(stream.position)}
        return StreamReply(200, RowLines(self.streams, stream, request.id), headers, NDJSON)

    def _bounds(self, options: QueryOptions) -> SqlBounds:
        return self.readers.bounds.narrowed(options.timeout_seconds, options.max_rows)


def expected_position(request: Request[Any]) -> Position | None:
    """Return the position that `If-Match` names; raise `Refusal` (400) if it names something else."""
    text = request.headers.get("if-match", "*").strip()
    if text == "*":
        return None
    try:
        return Position.parse(text.removeprefix('"').removesuffix('"'))
    except InvalidId as error:
        raise Refusal(INVALID_PARAMETER.problem(f"If-Match: {error}", field="If-Match")) from error


def _classes(request: Request[Any]) -> tuple[SqlClass, ...]:
    return tuple([kind for kind, scope in _SCOPE_OF if request.allows(scope)])


def _reply(body: bytes | dict[str, Any], position: Position) -> Reply:
    text = str(position)
    return Reply(200, body, {POSITION_HEADER: text, "etag": f'"{text}"'})
