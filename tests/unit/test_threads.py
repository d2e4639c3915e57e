"""Work in a thread is waited for, however often its caller is cancelled."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from projectors.threads import in_thread

WAIT_S = 20.0


async def test_the_result_or_the_error_of_the_work_comes_back() -> None:
    with ThreadPoolExecutor(1) as executor:
        assert await in_thread(executor, pow, 2, 5) == 32
        with pytest.raises(ZeroDivisionError):
            await in_thread(executor, divmod, 1, 0)


async def test_a_cancelled_caller_leaves_only_when_the_work_has_ended() -> None:
    """A database may not be closed or rolled back while a thread uses it; cancelling twice is no way round."""
    entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        assert go_on.wait(WAIT_S)
        ended.set()

    with ThreadPoolExecutor(1) as executor:
        task = asyncio.create_task(in_thread(executor, work))
        await asyncio.to_thread(entered.wait, WAIT_S)
        for _ in range(3):
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=0.02)
            assert not done
        go_on.set()
        await asyncio.wait({task})

    assert ended.is_set()
    assert task.cancelled()


async def test_work_that_has_not_begun_is_left_undone() -> None:
    entered, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        executor.submit(lambda: (entered.set(), go_on.wait(WAIT_S)))
        await asyncio.to_thread(entered.wait, WAIT_S)
        task = asyncio.create_task(in_thread(executor, done.append, "x"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=WAIT_S)
        assert task.cancelled()
        go_on.set()

    assert done == []
