"""What a request is made of: its headers and its id."""

import re

from api.headers import Headers
from api.request_ids import new_request_id


def test_of_several_headers_with_one_name_the_first_counts_and_all_can_be_had() -> None:
    headers = Headers([(b"accept", b"a"), (b"x", b"\xe9"), (b"accept", b"b")])

    assert headers["accept"] == "a"
    assert headers.all("accept") == ["a", "b"]
    assert headers.all("x") == ["\xe9"]
    assert headers.all("authorization") == []


def test_headers_that_are_there_once_can_be_had_alike() -> None:
    headers = Headers([(b"accept", b"a")])

    assert headers.all("accept") == ["a"]
    assert headers.all("x") == []


def test_every_made_request_id_is_another_and_as_long_as_the_others() -> None:
    made = [new_request_id() for _ in range(1000)]

    assert len(set(made)) == len(made)
    assert all(re.fullmatch(r"[0-9A-Z]{26}", one) for one in made)
