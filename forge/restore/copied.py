"""Which projections have generations at all, listed once where many are restored: most small ones have none."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from events.archive import Archive
from schemas.generation import FOLDER, projection_token

MANY = 100
"""Partitions for which one listing costs less than asking for each."""


@dataclass(frozen=True, slots=True)
class Copied:
    """The tokens below `domains` that have something; nothing is known of other domains."""

    domains: Collection[str]
    tokens: Collection[str]

    @classmethod
    async def of(cls, archive: Archive, *domains: str) -> Self:
        """Ask for all of some domains, a thousand at a time; raise what the store raises."""
        tokens: set[str] = set()
        for domain in domains:
            after = ""
            while True:
                page = await archive.store.folders(archive.key(f"{FOLDER}{domain}/"), after=after)
                tokens |= {f"{domain}/{name}" for name in page.names}
                if not (after := page.next):
                    break
        return cls(domains, tokens)

    def may_be(self, projection: str) -> bool:
        """Say whether a projection may have a generation."""
        token = projection_token(projection)
        return token.partition("/")[0] not in self.domains or token in self.tokens
