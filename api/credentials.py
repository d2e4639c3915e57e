"""The tokens that were minted here, as the gate needs them: found by their hash, cached, and told when they end."""

import asyncio
from collections import OrderedDict
from weakref import WeakValueDictionary

from api.auth import Principal, Unusable
from projectors.control import queries
from projectors.control.queries import TokenRow
from projectors.control.reading import ControlReader
from projectors.outcome import Committed
from schemas.control import TokenRevoked
from schemas.machine_token import hash_token, is_token

CACHED_MAX = 10_000
USED_MAX = 5000  # noted until the next flush; who comes later is noted the next time


class TokenCredentials:
    """Tokens by what callers show. Hand `heard` to `Partitions.listen`."""

    def __init__(self, reader: ControlReader) -> None:
        self._reader = reader
        self._cached: OrderedDict[str, tuple[TokenRow, Principal]] = OrderedDict()
        self._endings: WeakValueDictionary[str, asyncio.Event] = WeakValueDictionary()  # kept by who waits
        self._used: set[str] = set()

    def find(self, token: str) -> Principal | None:
        """Return whose token it is; None if nobody's; raise `Unusable` if it was revoked."""
        if not is_token(token):
            return None
        token_hash = hash_token(token)
        found = self._cached.get(token_hash) or self._look_up(token_hash)
        if found is None:
            return None
        row, principal = found
        self._cached.move_to_end(token_hash)
        if row.revoked_at is not None:
            raise Unusable(f"the token was revoked at {row.revoked_at}")
        if len(self._used) < USED_MAX:
            self._used.add(row.id)
        return principal

    def _look_up(self, token_hash: str) -> tuple[TokenRow, Principal] | None:
        # By the hash of 256 random bits: how long that takes tells nothing about a token.
        row = self._reader.read(lambda db: queries.token_by_hash(db, token_hash))
        if row is None:
            return None
        found = row, Principal(row.principal, row.scopes, row.is_admin, row.expires_at, row.url)
        self._cached[token_hash] = found
        if len(self._cached) > CACHED_MAX:
            self._cached.popitem(last=False)
        return found

    async def ended(self, principal: Principal) -> None:
        """Return when the token of `principal` is revoked."""
        while True:
            row = self._reader.read(lambda db: queries.token(db, principal.name.removeprefix("token:")))
            if row is None or row.revoked_at is not None:
                return
            look_again = self._endings.setdefault(row.id, asyncio.Event())
            await look_again.wait()

    def heard(self, committed: Committed) -> None:
        """Forget what a commit has changed, and tell those whose token may have ended."""
        if committed.partition.domain != "control":
            return
        if not committed.facts:  # it may have folded anything
            self._cached.clear()
            for token_id in list(self._endings):
                self._look_again(token_id)
        for fact in committed.facts:
            if isinstance(fact, TokenRevoked):
                for token_hash in [known for known, (row, _) in self._cached.items() if row.id == fact.token_id]:
                    del self._cached[token_hash]
                self._look_again(fact.token_id)

    def _look_again(self, token_id: str) -> None:
        if event := self._endings.pop(token_id, None):
            event.set()

    def take_used(self) -> tuple[str, ...]:
        """Return the ids of the tokens that were used since the last call."""
        used, self._used = tuple(sorted(self._used)), set()
        return used
