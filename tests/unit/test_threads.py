"""Work in a thread is waited for, however often its caller is cancelled."""

import asyncio
import threading

import pytest

from projectors.threads import Threads

WAIT_S = 60.0


async def test_the_result_or_the_error_of_the_work_comes_back() -> None:
    with Threads(1) as threads:
        assert await threads.run(pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            await threads.run(divmod, 1, 0)
        assert await threads.run(pow, 3, 2) == 9


async def test_each_of_many_callers_gets_its_own_result() -> None:
    with Threads(3) as threads:
        results = await asyncio.gather(*(threads.run(pow, n, 2) for n in range(500)))

    assert results == [n * n for n in range(500)]


async def test_a_cancelled_caller_leaves_only_when_the_work_has_ended() -> None:
    """A database may not be closed or rolled back while a thread uses it; cancelling twice is no way round."""
    entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert go_on.wait(WAIT_S)
        ended.set()

    with Threads(1) as threads:
        task = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(entered.wait, WAIT_S)
        for _ in range(3):
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=0.02)
            assert not done
        go_on.set()
        await asyncio.wait({task}, timeout=WAIT_S)

    assert ended.is_set()
    assert task.cancelled()


async def test_the_error_of_cancelled_work_is_no_error_of_anybody(caplog: pytest.LogCaptureFixture) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert go_on.wait(WAIT_S)
        raise RuntimeError("as asked")

    with Threads(1) as threads:
        task = asyncio.create_task(threads.run(work))
        await asyncio.to_thread(entered.wait, WAIT_S)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.cancelled()
        assert await threads.run(pow, 2, 2) == 4
    assert caplog.records == []


async def test_closing_ends_all_threads_after_their_work() -> None:
    done: list[int] = []
    threads = Threads(4, "all-of-these")
    work = [asyncio.create_task(threads.run(done.append, n)) for n in range(50)]
    await asyncio.sleep(0)
    threads.close()

    assert sorted(done) == list(range(50))
    assert not [one for one in threading.enumerate() if one.name.startswith("all-of-these-")]
    await asyncio.gather(*work)
