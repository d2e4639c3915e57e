"""When the archiver looks for what is new: counted from when it came."""

from workers.archive.pacing import POLL_MAX_S, POLL_S, Pace

SEAL_S = 3600.0
LOOK_BYTES = 1000


def idle_pace() -> Pace:
    """Return one that has looked and found nothing."""
    pace = Pace(SEAL_S, LOOK_BYTES)
    pace.look()
    pace.looked(found=False, waits=False, more=False)
    pace.news.clear()
    return pace


def test_what_comes_first_wakes_and_is_due_from_then_on() -> None:
    pace = idle_pace()

    pace.came(1)

    assert pace.news.is_set()
    assert POLL_MAX_S < pace.look_in_s <= SEAL_S


def test_what_comes_next_does_not_wake_unless_it_is_much() -> None:
    """PR7: it has to be fetched before it is forgotten, and before too much of it is sealed together."""
    pace = idle_pace()
    pace.came(1)
    pace.news.clear()

    pace.came(1)
    assert not pace.news.is_set()

    pace.came(LOOK_BYTES)
    assert pace.news.is_set()
    assert pace.look_in_s == 0


def test_what_was_found_and_waits_keeps_its_time() -> None:
    pace = idle_pace()
    pace.came(LOOK_BYTES)
    due_at = pace.look()
    pace.looked(found=True, waits=True, more=False)
    assert 0 < pace.look_in_s <= SEAL_S

    pace.came(1)

    assert pace.look() == due_at


def test_what_comes_while_it_is_archived_is_counted_anew() -> None:
    pace = idle_pace()
    pace.came(1)
    due_at = pace.look()
    pace.came(1)

    pace.looked(found=True, waits=False, more=False)

    assert pace.look() > due_at


def test_the_time_that_storing_took_last_is_taken_from_gathering() -> None:
    """Not more than half of it, or a slow store would get ever smaller objects."""
    now = 0.0
    pace = Pace(10.0, LOOK_BYTES, clock=lambda: now)

    def due_after(spent_s: float) -> float:
        nonlocal now
        pace.came(1)
        pace.look()
        now += spent_s
        pace.looked(found=True, waits=False, more=False)
        pace.came(1)
        return pace.look_in_s

    assert due_after(2.0) == 8.0
    assert due_after(60.0) == 5.0
    assert due_after(0.0) == 10.0


def test_a_look_that_fails_or_leaves_something_is_repeated_at_once() -> None:
    """PR7: also if nobody tells that there is something."""
    pace = idle_pace()
    pace.look()
    assert pace.look_in_s == 0

    pace.looked(found=True, waits=False, more=True)
    assert pace.look_in_s == 0


def test_without_news_it_looks_less_and_less_often() -> None:
    pace = idle_pace()
    assert 0 < pace.look_in_s <= 2 * POLL_S
    for _ in range(9):
        pace.look()
        pace.looked(found=False, waits=False, more=False)
    assert 2 * POLL_S < pace.look_in_s <= POLL_MAX_S

    pace.look()
    pace.looked(found=True, waits=False, more=False)

    assert pace.look_in_s <= POLL_S
