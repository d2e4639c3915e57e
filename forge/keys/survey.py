"""Look at objects of the archive: is encrypted what should be, and does the key here open it?"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from events.objects.errors import CorruptObject, KeyRefused, ObjectMissing
from events.objects.keyring import Keyring
from events.objects.port import LIST_MAX, Listed, ObjectStore
from events.objects.sealed import is_sealed
from schemas.encryption import FOLDERS

OPENED_AT_ONCE = 4  # each is held in memory
EXAMPLES_MAX = 5


@dataclass(slots=True)
class Survey:
    """What was found; `problems` names the first few."""

    objects: int = 0
    opened: int = 0
    clear: int = 0
    clear_by_mistake: int = 0
    not_opened: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything that was looked at is as it should be."""
        return not (self.clear_by_mistake or self.not_opened)

    def note(self, problem: str) -> None:
        """Remember what is wrong, if there is room."""
        if len(self.problems) < EXAMPLES_MAX:
            self.problems.append(problem)


async def all_objects(store: ObjectStore, prefix: str, after: str = "") -> AsyncIterator[Sequence[Listed]]:
    """Yield the objects of the archive below a prefix in order, page by page; not those of archives further below."""
    for folder in (f"{prefix}{name}" for name in FOLDERS):
        begun = after.startswith(folder)
        if after > folder and not begun:
            continue
        reached = after if begun else ""  # some servers give nothing after a key that is not below the prefix
        while page := await store.list(folder, after=reached):
            yield page
            reached = page[-1].key
            if len(page) < LIST_MAX:
                break


async def survey(
    store: ObjectStore, prefix: str, keyring: Keyring, *, samples: int | None, rng: random.Random
) -> Survey:
    """Look at `samples` objects that `rng` picks, or at all."""
    found = Survey()
    limit = asyncio.Semaphore(OPENED_AT_ONCE)

    async def look(keys: Sequence[str]) -> None:
        await asyncio.gather(*(_look(store, keyring, key, found, limit) for key in keys))

    picked: list[str] = []
    async for page in all_objects(store, prefix):
        if samples is None:
            await look([one.key for one in page])
        for one in page:
            found.objects += 1
            if samples is not None:
                _pick(picked, one.key, found.objects, samples, rng)
    await look(picked)
    return found


async def _look(store: ObjectStore, keyring: Keyring, key: str, found: Survey, limit: asyncio.Semaphore) -> None:
    try:
        async with limit:
            data = (await store.get(key)).data
            sealed = is_sealed(key, data)
            if sealed:
                await asyncio.to_thread(keyring.open, key, data)
    except ObjectMissing:
        return  # removed meanwhile
    except (KeyRefused, CorruptObject) as error:
        found.not_opened += 1
        found.note(str(error))
        return
    found.opened += sealed
    found.clear += not sealed
    if not sealed and keyring.encrypts(key):
        found.clear_by_mistake += 1
        found.note(f"{key} is in the clear")


def _pick(picked: list[str], key: str, number: int, samples: int, rng: random.Random) -> None:
    """Keep `samples` of all keys, each as likely as the others, without knowing how many will come."""
    if len(picked) < samples:
        picked.append(key)
    elif (place := rng.randrange(number)) < samples:
        picked[place] = key
