"""The tail of a stream in memory against a model of the stream: what a follower gets, and what is kept."""

from hypothesis import given
from hypothesis import strategies as st

from events.record import Message
from events.tail import MESSAGE_BYTES, Tail

BYTES_MAX = 8 * MESSAGE_BYTES
SERVER_BATCH = 3

steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),  # here, a record of so many messages
        st.tuples(st.just("foreign"), st.integers(1, 3)),  # by another process
        st.tuples(st.just("unheard"), st.integers(1, 2)),  # here, but whoever appended was cancelled before the answer
        st.tuples(st.just("read"), st.just(0)),
        st.tuples(st.just("reconnect"), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_a_follower_gets_every_message_once_and_in_order(steps: list[tuple[str, int]]) -> None:
    """PR2: whoever writes, whatever is forgotten; what is not in memory is read from the server."""
    server: list[bytes] = []
    read: list[bytes] = []
    heard: list[int] = []
    tail, generation = Tail(heard.append, BYTES_MAX), 1
    for step, count in [*steps, ("read", 0)]:
        if step == "read":
            while batch := tail.take(len(read) + 1):
                assert [message.sequence for message in batch] == list(range(len(read) + 1, len(read) + len(batch) + 1))
                read += [message.payload for message in batch]
            read += server[len(read) : len(read) + SERVER_BATCH]
        elif step == "reconnect":
            generation += 1
        else:
            messages = [Message("s", {"n": str(n)}, b"%d" % (len(server) + n)) for n in range(count)]
            server += [message.payload for message in messages]
            if step == "append":
                tail.add(messages, len(server), generation)
        assert tail.size_bytes <= BYTES_MAX
    while len(read) < len(server):
        batch = tail.take(len(read) + 1)
        read += [message.payload for message in batch] or server[len(read) : len(read) + SERVER_BATCH]
    assert read == server
    assert sum(heard) >= len(heard) * MESSAGE_BYTES
    assert not tail.take(len(read) + 1)


def test_what_another_server_acknowledged_is_not_joined_to_what_is_here() -> None:
    """PR2: its numbers may go on where those of the first one ended."""
    tail = Tail(lambda _: None)
    tail.add([Message("s", {}, b"old")], 1, server=1)

    tail.add([Message("s", {}, b"new")], 2, server=2)

    assert tail.take(1) == []
    assert [message.payload for message in tail.take(2)] == [b"new"]


def test_a_message_tells_when_it_came() -> None:
    """As those do that the server tells of: the lag is counted from there."""
    tail = Tail(lambda _: None)
    tail.add([Message("s", {"Forge-Position": "1.1"}, b"x")], 7, server=1)

    (found,) = tail.take(7)

    assert found.headers.keys() == {"Forge-Position", "Nats-Time-Stamp"}
