"""The routes that mint, list, explain and revoke tokens, and show the audit."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.auth import Access
from api.control_command import submit
from api.inputs import KEY, MIN_POSITION, number, text
from api.parameters import query_number
from api.positions import POSITION_HEADER, await_position, command_id
from api.repeated_secrets import RepeatedSecrets
from api.routes import Reply, Request, Route
from projectors.control import queries
from projectors.control.delegation import GRANT, may_manage
from projectors.control.domain import PARTITION
from projectors.control.queries import TokenRow
from projectors.partitions import Partitions
from projectors.readers import Readers
from schemas.control import MintToken, RevokeToken
from schemas.instants import format_instant
from schemas.machine_token import format_token, hash_token, shown_prefix
from schemas.problems import INVALID_PARAMETER, Refusal
from schemas.scopes import ACTIONS
from schemas.tokens import AuditReply, AuditView, MintedToken, MintRequest, TokensReply, TokenView, WhyReply, WhyRequest

NO_STORE = {"cache-control": "no-store"}
PAGE_MAX = 1000
PAGE = 200
_ID_MAX = 2**63 - 1
PAGING = (
    number("before", "Only older ones: `next` of the page before.", 1, _ID_MAX),
    number("limit", "How many a page has at most.", 1, PAGE_MAX, PAGE),
    MIN_POSITION,
)
AUDIT_INPUTS = (text("subject", "Only what was done to this document or token."), *PAGING)


@dataclass(frozen=True, slots=True)
class TokensApi:
    """The handlers, with what they need; `readers` are of `control.db`."""

    partitions: Partitions
    readers: Readers
    access: Access
    secrets: RepeatedSecrets = field(default_factory=RepeatedSecrets, repr=False)

    def routes(self) -> Sequence[Route]:
        """Return the route table."""
        tokens, audit = "/api/v1/admin/tokens", "/api/v1/admin/audit"
        return (
            Route(
                "GET",
                tokens,
                GRANT,
                self.list,
                anywhere=True,
                inputs=PAGING,
                replies={200: TokensReply},
                summary="Tokens, newest first",
            ),
            Route(
                "POST",
                tokens,
                GRANT,
                self.mint,
                body=MintRequest,
                anywhere=True,
                inputs=(KEY,),
                replies={201: MintedToken},
                summary="Make a token; its secret is shown this once",
            ),
            Route(
                "POST",
                f"{tokens}/why",
                GRANT,
                self.why,
                body=WhyRequest,
                anywhere=True,
                replies={200: WhyReply},
                summary="Explain whether a token may do something",
            ),
            Route(
                "DELETE",
                f"{tokens}/{{token_id}}",
                GRANT,
                self.revoke,
                anywhere=True,
                inputs=(KEY,),
                replies={204: "revoked"},
                summary="End a token, and all streams that it opened",
            ),
            Route(
                "GET",
                audit,
                GRANT,
                self.audit,
                inputs=AUDIT_INPUTS,
                replies={200: AuditReply},
                summary="Who changed what, newest first",
            ),
        )

    async def list(self, request: Request[None]) -> Reply:
        """Return a page of the tokens that the caller may revoke."""
        before = query_number(request, "before", _ID_MAX, 1, _ID_MAX)
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        principal = request.caller
        await await_position(request, self.partitions[PARTITION])

        def page(db: Any) -> tuple[list[TokenRow], int | None]:
            found = queries.tokens(db, before=before, limit=limit)
            following = found[-1].number if len(found) == limit else None
            if principal.is_admin:
                return found, following
            holder = queries.token(db, principal.name.removeprefix("token:"))
            return [row for row in found if holder and may_manage(db, holder, row)], following

        found, following = await self.readers.read(page)
        return Reply(200, TokensReply(tokens=[_view(row) for row in found], next=following), NO_STORE)

    async def mint(self, request: Request[MintRequest]) -> Reply:
        """Make a token valid and show its secret."""
        body, repeated_as = request.body, command_id(request)
        token = format_token(self.secrets.of(repeated_as))
        command = MintToken(
            hash=hash_token(token),
            prefix=shown_prefix(token),
            label=body.label,
            is_admin=body.is_admin,
            scopes=body.scopes,
            url=body.url,
            expires_at=format_instant(body.expires_at) if body.expires_at else None,
            by=request.caller.name,
        )
        answer = await submit(self.partitions, request, command, repeated_as)
        return Reply(201, answer.value | {"token": token}, {**NO_STORE, POSITION_HEADER: str(answer.position)})

    async def why(self, request: Request[WhyRequest]) -> Reply:
        """Explain a decision."""
        body = request.body
        if body.action not in ACTIONS:
            why = f"{body.action[:80]!r} is no action; the actions are {', '.join(ACTIONS)}"
            raise Refusal(INVALID_PARAMETER.problem(why, field="action"))
        allowed, reasons = self.access.explain(body.token, body.action, body.db_id, body.resource)
        return Reply(200, WhyReply(allowed=allowed, reasons=reasons), NO_STORE)

    async def revoke(self, request: Request[None]) -> Reply:
        """End a token."""
        command = RevokeToken(token_id=request.params["token_id"], by=request.caller.name)
        answer = await submit(self.partitions, request, command, command_id(request))
        return Reply(204, None, {POSITION_HEADER: str(answer.position)})

    async def audit(self, request: Request[None]) -> Reply:
        """Return a page of the audit, of one subject if `subject` is given."""
        before = query_number(request, "before", _ID_MAX, 1, _ID_MAX)
        limit = query_number(request, "limit", PAGE, 1, PAGE_MAX)
        subject = request.query.get("subject", "")
        await await_position(request, self.partitions[PARTITION])
        rows = await self.readers.read(lambda db: queries.audit(db, subject=subject, before=before, limit=limit))
        entries = [AuditView(**row._asdict()) for row in rows]
        return Reply(200, AuditReply(entries=entries, next=rows[-1].id if len(rows) == limit else None))


def _view(row: TokenRow) -> TokenView:
    return TokenView(**{name: value for name, value in row._asdict().items() if name != "number"})
