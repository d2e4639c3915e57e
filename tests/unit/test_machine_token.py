"""The form of tokens: misspelt ones are seen without asking anybody."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.machine_token import PREFIX, SECRET_BYTES, format_token, hash_token, is_token, shown_prefix, token_id

secret_bytes = st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES)


@given(secret_bytes)
def test_a_token_has_one_length_and_its_checksum_fits(secret: bytes) -> None:
    token = format_token(secret)
    assert len(token) == len(PREFIX) + 49
    assert is_token(token)


@given(secret_bytes, secret_bytes)
def test_different_secrets_make_different_tokens(one: bytes, other: bytes) -> None:
    """P1.4: no bit of the secret is lost."""
    assert (format_token(one) == format_token(other)) is (one == other)


@given(secret_bytes, st.integers(0, 54), st.sampled_from("0aZ9-_ "))
def test_a_token_with_one_wrong_character_is_seen(secret: bytes, at: int, character: str) -> None:
    token = format_token(secret)
    wrong = token[:at] + character + token[at + 1 :]
    assert is_token(wrong) is (wrong == token)


def test_two_swapped_characters_are_seen() -> None:
    token = format_token(secrets.token_bytes(SECRET_BYTES))
    body = token.removeprefix(PREFIX)
    for at in range(len(body) - 1):
        swapped = PREFIX + body[:at] + body[at + 1] + body[at] + body[at + 2 :]
        assert is_token(swapped) is (swapped == token)


@pytest.mark.parametrize("text", ["", "forge_", "forge_abc", "ptk_" + "a" * 49, "forge_" + "é" * 49, "\udcff"])
def test_other_texts_are_no_tokens(text: str) -> None:
    assert not is_token(text)
    hash_token(text)


def test_what_is_shown_of_a_token_does_not_give_it_away() -> None:
    """P1.4, P1.8."""
    token = format_token(secrets.token_bytes(SECRET_BYTES))
    assert len(shown_prefix(token)) == len(PREFIX) + 4
    assert token_id(hash_token(token)) == token_id(hash_token(token))
    assert token_id(hash_token(token)) not in hash_token(token)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_secret_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="32 random bytes"):
        format_token(bytes(size))
