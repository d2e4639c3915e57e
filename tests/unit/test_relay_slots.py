"""How long, and of how many, it is remembered that a requester has left."""

from api.relay.body import Body
from api.relay.budget import Budget
from api.relay.call import Call
from api.relay.channel import Channels, Key
from api.relay.headers import Metadata
from api.relay.offer import Message
from api.relay.slots import LEFT_MAX, SLOTS_MAX, Slots


async def test_requesters_that_left_are_bounded_over_all_names() -> None:
    """PR7: an answer to the newest of them is still known to be theirs."""
    slots, calls = Slots(), Channels[Call]()
    names = [Key("d", f"answer {n}") for n in range(LEFT_MAX + 10)]
    for name in names:
        call = call_at(calls, name)
        slots.open(name, call)
        call.leave()

    assert len(slots) == LEFT_MAX
    assert slots.take(names[0]) is None
    assert slots.take(names[-1]) is not None
    slots.close()


async def test_those_of_one_name_are_bounded_and_the_oldest_is_forgotten() -> None:
    """PR7"""
    slots, calls, name = Slots(), Channels[Call](), Key("d", "answer")
    opened = [call_at(calls, name) for _ in range(SLOTS_MAX + 2)]
    for call in opened:
        slots.open(name, call)

    opened[0].leave()  # nobody remembers it: nothing comes back

    assert len(slots) == SLOTS_MAX
    assert slots.take(name) is opened[2]
    slots.close()


def call_at(calls: Channels[Call], name: Key) -> Call:
    """Return a call that waits for its answer."""
    return Call(Message(Metadata("GET", "/", "text/plain"), Body(Budget(1 << 20).of("d"))), calls, name, 30.0)
