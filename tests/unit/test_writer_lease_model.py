"""Many contenders for one lease over a store that fails: random histories in virtual time, each by its seed."""

import asyncio
import random
from itertools import pairwise

import pytest

from events.objects.memory import MemoryStore
from tests.faults.killer import fresh_seed
from tests.lease_contenders import Clocks, FaultyStore, MemoryPlace, contender
from tests.virtual_time import in_virtual_time
from workers.lease.stored import StoredLease

HISTORIES, HISTORIES_LONG = 25, 10_000
CONTENDERS = 4
LASTS_S = 1200
LOOK_S = 0.25
DRIFT = 0.02  # of a steady clock: the margin of the terms allows for a tenth


class Machine:
    """One machine on which processes start, die and stop, each with the lease of its data directory."""

    def __init__(self, name: str, store: MemoryStore, rng: random.Random, held: list[tuple[str, int]]) -> None:
        self.rng = rng
        self.place = MemoryPlace(name)
        self.clocks = Clocks(rng, drift=DRIFT)
        self.store = FaultyStore(store, rng)
        self.store.one_in = 4
        self.lease: StoredLease | None = None
        self._held = held
        self.acquired = 0
        self.lost = 0

    async def live(self) -> None:
        """Run one process after the other."""
        while True:
            self.lease = contender(self.store, self.place, self.clocks, rng=self.rng)
            running = asyncio.create_task(self._run(self.lease))
            await asyncio.sleep(self.rng.expovariate(1 / 300))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            if self.rng.random() < 0.5:
                await self.lease.release()
            elif self.lease._keeper:
                self.lease._keeper.cancel()
                self.lease.guard.close("killed")
            self.clocks.jump_s += self.rng.choice([0, 0, 3600, -3600, 86_400])
            await asyncio.sleep(self.rng.choice([0, self.rng.expovariate(1 / 60)]))

    async def be_cut_off(self) -> None:
        """Lose the store now and then for longer than a lease lasts."""
        while True:
            await asyncio.sleep(self.rng.expovariate(1 / 200))
            self.store.always = self.rng.choice(["hangs", "lost", "answer lost", "done late"])
            await asyncio.sleep(self.rng.uniform(10, 120))
            self.store.always = ""

    async def _run(self, lease: StoredLease) -> None:
        while True:
            held = await lease.acquire()
            self.acquired += 1
            self._held.append((self.place.name, held.epoch))
            await lease.lost.wait()
            self.lost += 1

    @property
    def writes(self) -> bool:
        """Whether it would write now."""
        return self.lease is not None and self.lease.guard.closed_because is None


async def history(seed: int) -> tuple[int, int, int]:
    """Let contenders live; return how many faults, acquisitions and losses there were."""
    rng = random.Random(seed)
    store = MemoryStore()
    held: list[tuple[str, int]] = []
    machines = [Machine(f"m{n}", store, rng, held) for n in range(CONTENDERS)]
    living = [asyncio.create_task(work) for machine in machines for work in (machine.live(), machine.be_cut_off())]
    loop = asyncio.get_running_loop()
    while loop.time() < LASTS_S:
        await asyncio.sleep(LOOK_S)
        writers = [machine.place.name for machine in machines if machine.writes]
        assert len(writers) <= 1, f"seed {seed}: {writers} write at {loop.time():.1f}"
    for machine in machines:
        machine.store.one_in = 0
        living[machines.index(machine) * 2 + 1].cancel()
        machine.store.always = ""
    before = len(held)
    while len(held) == before and not any(machine.writes for machine in machines):
        await asyncio.sleep(LOOK_S)
        assert loop.time() < LASTS_S + 600, f"seed {seed}: nobody gets the lease any more"
    for task in living:
        task.cancel()
    await asyncio.gather(*living, return_exceptions=True)
    _check_epochs(seed, held)
    for machine in machines:
        assert machine.lease
        await machine.lease.release()
    return (
        sum(machine.store.faults for machine in machines),
        sum(machine.acquired for machine in machines),
        sum(machine.lost for machine in machines),
    )


def _check_epochs(seed: int, held: list[tuple[str, int]]) -> None:
    """An epoch belongs to one place, and rises whenever another place gets the lease."""
    for (place, epoch), (following, later) in pairwise(held):
        if following == place:
            assert later >= epoch, f"seed {seed}: {held}"
        else:
            assert later > epoch, f"seed {seed}: {held}"


@pytest.mark.parametrize(
    "histories", [HISTORIES, pytest.param(HISTORIES_LONG, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
def test_of_many_contenders_one_writes_at_a_time_and_epochs_rise(histories: int) -> None:
    """PR3: over delays, lost requests and answers, false refusals, late deeds, kills, and clocks that jump."""
    first = fresh_seed()
    totals = [0, 0, 0]
    for seed in range(first, first + histories):
        found = in_virtual_time(history(seed))
        totals = [one + other for one, other in zip(totals, found, strict=True)]
    print(f"faults, acquisitions, losses: {totals}")
    assert all(totals)
