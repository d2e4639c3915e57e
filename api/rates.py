"""How many requests are let in: token buckets for everybody together, for each token and for each document."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from api.auth import Principal
from schemas.problems import RATE_LIMITED, Refusal
from schemas.scopes import ANY_DB

BUCKETS_MAX = 10_000  # of one kind; the one that was used longest ago is forgotten
_NO_HEADERS: Mapping[str, str] = {}


class Rate(NamedTuple):
    """So many requests a second in the long run, and so many at once."""

    per_s: float
    burst: int

    @classmethod
    def of(cls, per_s: float, burst: int = 0) -> "Rate | None":
        """Return the rate of two settings; None if `per_s` is 0: no limit. A `burst` of 0 is two seconds' worth."""
        return cls(per_s, burst or max(1, math.ceil(2 * per_s))) if per_s else None


@dataclass(slots=True)
class _Bucket:
    """What is left of a burst, at a moment of the clock."""

    left: float
    at: float


class _Buckets:
    """The buckets of one kind, made when first needed."""

    def __init__(self, name: str, rate: Rate) -> None:
        self.name = name
        self.rate = rate
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def filled(self, key: str, now: float) -> _Bucket:
        """Return the bucket of `key` as it is at `now`."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self.rate.burst, now)
            if len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            bucket.left = min(self.rate.burst, bucket.left + max(0.0, now - bucket.at) * self.rate.per_s)
            bucket.at = now
        return bucket

    def policy(self) -> str:
        """Return the member of `RateLimit-Policy`: quota and window in seconds."""
        return f'"{self.name}";q={self.rate.burst};w={math.ceil(self.rate.burst / self.rate.per_s)}'

    def state(self, bucket: _Bucket) -> str:
        """Return the member of `RateLimit`: requests left, and seconds until all are there again."""
        left_s = math.ceil((self.rate.burst - bucket.left) / self.rate.per_s)
        return f'"{self.name}";r={math.floor(bucket.left)};t={left_s}'

    def __len__(self) -> int:
        return len(self._buckets)


class Rates:
    """The limits of a node. What is refused costs nobody anything."""

    def __init__(
        self,
        *,
        overall: Rate | None = None,
        token: Rate | None = None,
        document: Rate | None = None,
        unknown: Rate | None = None,
        anonymous: Rate | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`unknown` is shared by all who show no valid token; `anonymous` is for each address that needs none.

        `clock` returns seconds that never go back.
        """
        self._overall = _Buckets("global", overall) if overall else None
        self._token = _Buckets("token", token) if token else None
        self._document = _Buckets("document", document) if document else None
        self._unknown = _Buckets("unknown", unknown) if unknown else None
        self._anonymous = _Buckets("anonymous", anonymous) if anonymous else None
        self._clock = clock
        self._limits_callers = bool(overall or token)

    def admit_unknown(self) -> None:
        """Let somebody without a valid token hear that it is not valid; raise `Refusal` (429)."""
        if self._unknown is not None:
            self._take([(self._unknown, ""), (self._overall, "")])

    def admit_caller(self, principal: Principal) -> Mapping[str, str]:
        """Let a request of somebody in; return the headers of its answer; raise `Refusal` (429)."""
        if not self._limits_callers:
            return _NO_HEADERS
        return self._take([(self._token, principal.name), (self._overall, "")])

    def admit_anonymous(self, address: str) -> Mapping[str, str]:
        """Let a request in that needs no token, from an address; return the headers of its answer; raise `Refusal`."""
        return self._take([(self._anonymous, address), (self._overall, "")])

    def admit_document(self, db_id: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Let a request to a document in that its caller may make; `headers` are those of the caller's admission."""
        if self._document is None or db_id == ANY_DB:
            return headers
        own = self._take([(self._document, db_id)])
        return {name: f"{headers[name]}, {value}" if name in headers else value for name, value in own.items()}

    def _take(self, asked: Iterable[tuple[_Buckets | None, str]]) -> Mapping[str, str]:
        now = self._clock()
        buckets = [(kind, kind.filled(key, now)) for kind, key in asked if kind is not None]
        for kind, bucket in buckets:
            if bucket.left < 1:
                wait_s = math.ceil((1 - bucket.left) / kind.rate.per_s)
                why = f"more than {kind.rate.per_s:g} requests per second ({kind.name}), {kind.rate.burst} at once"
                raise Refusal(RATE_LIMITED.problem(why, retry_after_s=wait_s), _headers(buckets))
        for _, bucket in buckets:
            bucket.left -= 1
        return _headers(buckets)


def _headers(buckets: list[tuple[_Buckets, _Bucket]]) -> Mapping[str, str]:
    if not buckets:
        return _NO_HEADERS
    return {
        "ratelimit-policy": ", ".join(kind.policy() for kind, _ in buckets),
        "ratelimit": ", ".join(kind.state(bucket) for kind, bucket in buckets),
    }
