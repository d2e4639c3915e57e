"""Positions that the store does not tell yet: a bounded number, and the mark waits for them."""

import pytest

from schemas.ids import PartitionId
from workers.archive.untold import UNTOLD_MAX, Untold


def test_what_waits_to_be_told_is_bounded() -> None:
    """PR7: and holds the mark until it is told."""
    untold = Untold(3600)
    for n in range(UNTOLD_MAX):
        assert not untold.is_full
        untold.note(PartitionId("doc", f"d{n}"), n)

    assert (untold.is_full, untold.mark(5000)) == (True, 0)
    untold.told(PartitionId("doc", "d0"))
    assert (untold.is_full, untold.mark(5000)) == (False, 1)
    assert untold.due() == []


@pytest.mark.parametrize("every_s", [0.0, 3600.0])
def test_a_partition_is_due_from_its_first_segment_on(every_s: float) -> None:
    untold = Untold(every_s)
    assert untold.due_s() is None
    partition = PartitionId("doc", "d")
    untold.note(partition, 1)
    untold.note(partition, 9)

    assert untold.mark(10) == 1
    assert untold.due() == ([] if every_s else [partition])
