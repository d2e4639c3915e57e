"""Threads for SQLite work, which cannot be interrupted.

A third cheaper than the executors of the standard library, which lock and notify for features that are not used
here; a lone command goes through here twice.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar

T = TypeVar("T")


class _Job:
    """One call, on its way to a thread and back."""

    __slots__ = ("arguments", "ended", "future", "loop", "waiter", "work")

    def __init__(self, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
        self.work = work
        self.arguments = arguments
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.ended = False
        self.waiter: asyncio.Event | None = None

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Take the outcome, on the event loop."""
        self.ended = True
        if not self.future.done():
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        if self.waiter is not None:
            self.waiter.set()


class Threads:
    """A fixed number of threads. `run` from the event loop; `close`, or leave the context, when nothing runs."""

    def __init__(self, count: int, name: str = "sqlite") -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads = [Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(count)]
        for thread in self._threads:
            thread.start()

    async def run(self, work: Callable[..., T], *arguments: object, interrupt: Callable[[], None] = lambda: None) -> T:
        """Return what `work` returns. If cancelled, wait for its end first: it uses what the caller would close.

        `interrupt` is called then, to make it end soon.
        """
        job = _Job(work, arguments)
        self._jobs.put(job)
        try:
            result: T = await job.future
            return result
        except asyncio.CancelledError:
            job.waiter = asyncio.Event()
            interrupt()
            while not job.ended:
                with suppress(asyncio.CancelledError):  # once more changes nothing
                    await job.waiter.wait()
            raise

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            result, error = None, None
            try:
                result = job.work(*job.arguments)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop was closed: nobody waits
                job.loop.call_soon_threadsafe(job.settle, result, error)
            del job, result, error  # an idle thread must keep nothing alive

    def close(self) -> None:
        """End the threads once they have done what was asked for."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
