"""Leading a changed copy to where the document is: its own changes back, then everything that happened here."""

from collections.abc import Iterable

import apsw


def rebased(own: bytes, happened: Iterable[bytes]) -> bytes:
    """Return one changeset from a copy with the changes `own` to where the changesets `happened` lead from its base.

    SQLite's own rebasing tells only of rows that both
    sides changed; not of one that was left out here because of another row, as a broken constraint makes it.
    """
    builder = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]  # apsw leaves it untyped
    try:
        if own:
            builder.add(apsw.Changeset.invert(own))
        for changeset in happened:
            builder.add(changeset)
        return builder.output()
    finally:
        builder.close()
