"""Scopes: patterns of documents, prefixes of resources, and the closed list of actions."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.scopes import ACTIONS, NAMING_ACTIONS, Scope, WantedScope, covers_db, covers_resource

names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=8)
patterns = names | names.map(lambda name: f"{name}*") | st.just("*")
segments = st.lists(st.text(string.ascii_lowercase + "2.", min_size=1, max_size=3), max_size=3)
resources = segments.map("/".join)
actions = st.sampled_from(ACTIONS)
scopes = st.builds(Scope, db_id=patterns, action=actions, resource_prefix=resources)


@pytest.mark.parametrize(
    ("prefix", "resource", "covered"),
    [
        ("jobs", "jobs", True),
        ("jobs", "jobs/1", True),
        ("jobs", "/jobs/1", True),
        ("/jobs/", "jobs/1", True),
        ("jobs", "jobs2", False),
        ("jobs", "job", False),
        ("jobs/1", "jobs", False),
        ("jobs", "", False),
        ("", "", True),
        ("", "anything/at/all", True),
        ("/query/exec", "/query/exec", True),
        ("/query", "/query/exec", True),
        ("/query/exe", "/query/exec", False),
    ],
)
def test_a_prefix_ends_where_a_segment_ends(prefix: str, resource: str, covered: bool) -> None:
    """P1.12, G-27."""
    assert covers_resource(prefix, resource) is covered


@given(resources, resources)
def test_a_prefix_covers_exactly_itself_and_what_begins_with_its_segments(prefix: str, resource: str) -> None:
    """P1.12, G-27."""
    wanted = prefix.split("/") if prefix else []
    assert covers_resource(prefix, resource) is ((resource.split("/") if resource else [])[: len(wanted)] == wanted)


@given(patterns, names)
def test_a_pattern_names_a_document_by_its_name_or_its_beginning(pattern: str, name: str) -> None:
    """P1.12."""
    expected = name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
    assert covers_db(pattern, name) is expected


@given(scopes, scopes, actions, names, resources)
def test_a_scope_that_includes_another_allows_all_that_the_other_allows(
    wide: Scope, narrow: Scope, action: str, name: str, resource: str
) -> None:
    """PR6: else handing on a scope would hand on more than one has."""
    if wide.includes(narrow) and narrow.covers(action, name, resource):
        assert wide.covers(action, name, resource)


@given(scopes)
def test_a_scope_includes_itself(scope: Scope) -> None:
    assert scope.includes(scope)
    assert not any(scope.covers(action, "*") for action in ACTIONS) or scope.db_id == "*"


@given(patterns, actions, resources)
def test_what_makes_sense_is_taken_as_it_is(pattern: str, action: str, resource: str) -> None:
    wanted = WantedScope(db_id=pattern, action=action, resource_prefix=f"/{resource}/")
    assert wanted.resource_prefix == resource.strip("/")
    assert (wanted.db_id, wanted.action) == (pattern, action)


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "query.raed"},
        {"action": "*"},
        {"action": ""},
        {"db_id": ""},
        {"db_id": "**"},
        {"db_id": "a*b"},
        {"db_id": "../x"},
        {"db_id": ".."},
        {"db_id": "x" * 129},
        {"db_id": "a b"},
        {"resource_prefix": "a\nb"},
        {"resource_prefix": "x" * 513},
        {"resource_prefx": "jobs"},
    ],
)
def test_a_scope_that_makes_no_sense_is_refused(wrong: dict[str, str]) -> None:
    """P1.5, G-27: an unknown action, a strange pattern, a misspelt field that would widen the scope."""
    with pytest.raises(ValidationError):
        WantedScope(**({"db_id": "notes", "action": "query.read"} | wrong))


def test_the_actions_are_all_there_and_each_once() -> None:
    assert len(set(ACTIONS)) == len(ACTIONS) == 24


@pytest.mark.parametrize("action", sorted(NAMING_ACTIONS))
def test_a_name_that_begins_with_a_slash_is_another_one(action: str) -> None:
    """P3.2, PR6: topics `jobs` and `/jobs` have nothing to do with each other."""
    below = Scope(db_id="home", action=action, resource_prefix="jobs")
    assert below.covers(action, "home", "jobs/1")
    assert not below.covers(action, "home", "/jobs")
    assert not below.covers(action, "home", "/jobs/1")
    assert Scope(db_id="home", action=action).covers(action, "home", "/jobs/1")
