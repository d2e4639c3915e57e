"""How server-sent events look."""

from api.sse import comment, frame, retry_line


def test_a_frame_carries_id_event_and_data() -> None:
    """A position goes first, so that it counts from the moment that the event does."""
    assert frame("update", b'{"a":1}', "1.7") == b'id: 1.7\nevent: update\ndata: {"a":1}\n\n'


def test_a_frame_without_a_position_leaves_the_clients_position_alone() -> None:
    """An error says nothing about where the client stands."""
    assert frame("error", b"{}") == b"event: error\ndata: {}\n\n"


def test_a_stream_begins_with_what_clients_pass_over() -> None:
    """The retry line and comments are no events."""
    assert retry_line(1500) + comment("waiting") == b"retry: 1500\n\n: waiting\n\n"
