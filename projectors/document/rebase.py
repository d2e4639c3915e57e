"""Leading a changed copy to where the document is: its own changes back, then everything that happened here."""

from collections.abc import Iterable

import apsw

REBASE_BYTES_MAX = 64 << 20


def rebased(own: bytes, happened: Iterable[bytes]) -> bytes | None:
    """Return one changeset from a copy with the changes `own` to where the changesets `happened` lead from its base.

    None if they are larger than `REBASE_BYTES_MAX` together. SQLite's own rebasing tells only of rows that both
    sides changed; not of one that was left out here because of another row, as a broken constraint makes it.
    """
    size = len(own)
    builder = apsw.ChangesetBuilder()  # type: ignore[no-untyped-call]
    try:
        if own:
            builder.add(apsw.Changeset.invert(own))
        for changeset in happened:
            size += len(changeset)
            if size > REBASE_BYTES_MAX:
                return None
            builder.add(changeset)
        return builder.output()
    finally:
        builder.close()
