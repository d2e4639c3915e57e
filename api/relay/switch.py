"""Names at which the answer to one request is expected: each belongs to one responder, once."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from api.relay.call import Call
from api.relay.channel import Channels, Key
from api.relay.offer import Delivered, Offer
from schemas.problems import INVALID_BODY, REQUESTER_GONE, SWITCH_NAME_TAKEN, Refusal

NAME_LENGTH_MAX = 128
REMEMBER_S = 60.0
"""So long a name that was used is refused: answers that come late or twice hear 410."""
REMEMBERED_MAX = 65_536
"""So many of them; of more, the oldest is forgotten."""
QUEUE = "queue/"


def parse_name(body: bytes) -> str:
    """Return the name that a responder chose; `Refusal` (400) if it is none."""
    try:
        name = body.decode().strip()
    except UnicodeDecodeError:
        name = ""
    if not name or len(name) > NAME_LENGTH_MAX or "/" in name or "?" in name or not name.isprintable():
        why = f"the body is the name of the channel of the answer: at most {NAME_LENGTH_MAX} characters, no / and no ?"
        raise Refusal(INVALID_BODY.problem(why))
    return name


def named_by(key: Key) -> Key | None:
    """Return the name that a message to a channel may be the answer of."""
    name = key.name.removeprefix(QUEUE)
    return Key(key.db_id, name) if name and "/" not in name else None


class Binding:
    """A name that is bound to the request which its responder takes, and the answer, which may come before that."""

    __slots__ = ("_ended", "_open", "name", "post")

    def __init__(self, name: Key, ended: Callable[["Binding", bool], None]) -> None:
        """`ended` is told when the name is no longer bound, and whether it was used."""
        self.name = name
        self.post: Offer | None = None
        self._open: Call | None = None  # once its responder has all of the request
        self._ended = ended

    def claim(self, offer: Offer) -> None:
        """Take an answer; `Refusal` (410) if there is one already."""
        if self.post is not None:
            raise Refusal(REQUESTER_GONE.problem(f"{self.name.name!r} has its answer already"))
        self.post = offer
        offer.unclaimed = self._unclaimed
        self._answer()

    def took(self, call: Call) -> None:
        """The responder has been given a request, and receives it now."""
        call.ended = self._call_ended

    def copied(self, call: Call, complete: bool) -> None:
        """The responder has all of the request, or failed before it had."""
        call.settle(complete)
        if not call.waits:
            return
        if complete:
            self._open = call
            self._answer()
        else:  # somebody else will take it
            call.ended = None
            self.release()

    def release(self) -> None:
        """The responder has no request: its name is free again, and what came for it waits as before."""
        post, self.post = self.post, None
        self._ended(self, False)
        if post is not None:
            post.unclaimed = None
            post.put_back()

    def _answer(self) -> None:
        if self._open is not None and self.post is not None:
            self.post.unclaimed = None
            self.post.taken()
            self._open.reply(self.post)

    def _call_ended(self) -> None:
        """The request is answered, or nobody waits for that any more."""
        self._ended(self, True)
        if self.post is not None and not self.post.answers:
            self.post.unclaimed = None
            self.post.refuse(REQUESTER_GONE.problem("whoever asked waits no longer for the answer"))

    def _unclaimed(self) -> None:
        self.post = None


class Switch:
    """All names that are bound, and those that were not long ago."""

    def __init__(self, offers: Channels[Delivered]) -> None:
        self._offers = offers
        self._bound: dict[Key, Binding] = {}
        self._used: OrderedDict[Key, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._bound)

    def bind(self, name: Key) -> Binding:
        """Give a name to a responder; `Refusal` (409) if somebody has it, or had it not long ago."""
        if name in self._bound or self._was_used(name):
            why = f"{name.name!r} is, or was in the last {REMEMBER_S:g} s, the name of another answer"
            raise Refusal(SWITCH_NAME_TAKEN.problem(why))
        binding = self._bound[name] = Binding(name, self._ended)
        self._claim_what_waits(binding)
        return binding

    def claims(self, offer: Offer, key: Key) -> bool:
        """Say whether a message is an answer to somebody; if so it is his, or `Refusal` (410) if it comes too late."""
        name = named_by(key)
        if name is None:
            return False
        if binding := self._bound.get(name):
            binding.claim(offer)
            return True
        if self._was_used(name):
            raise Refusal(REQUESTER_GONE.problem(f"{name.name!r} was answered, or waits no longer for an answer"))
        return False

    def _claim_what_waits(self, binding: Binding) -> None:
        """An answer may have come before its name was bound."""
        for key in (binding.name, Key(binding.name.db_id, QUEUE + binding.name.name)):
            offer = self._offers.oldest(key)
            if isinstance(offer, Offer):
                self._offers.withdraw(key, offer)
                binding.claim(offer)
                return

    def _ended(self, binding: Binding, used: bool) -> None:
        if self._bound.pop(binding.name, None) is not None and used:
            self._used[binding.name] = asyncio.get_running_loop().time() + REMEMBER_S
            if len(self._used) > REMEMBERED_MAX:
                self._used.popitem(last=False)

    def _was_used(self, name: Key) -> bool:
        now = asyncio.get_running_loop().time()
        while self._used and next(iter(self._used.values())) <= now:
            self._used.popitem(last=False)
        return name in self._used
