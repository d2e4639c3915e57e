"""One thread that interrupts the statements that take too long or too much memory.

It looks at the clock rather than counting steps. A progress handler would need the interpreter's lock every few
steps: beside one busy thread that made a statement of half a second take more than a minute. And between two of its
calls a thousand costly functions may run.
"""

import threading
import time
from typing import Literal, Protocol

import apsw

LOOKS_EVERY_S = 0.02

Stopped = Literal["time", "memory"]


class Running(Protocol):
    """Who runs something until `deadline` (of `time.monotonic`), with at most `memory_max` bytes in use.

    What is `abandoned` has had its time, whatever its deadline.
    """

    deadline: float
    memory_max: int
    abandoned: bool
    stopped: Stopped | None

    def interrupt(self) -> None:
        """End what runs now; called again as long as something does."""


class Deadlines:
    """Who runs, and until when. The thread lives as long as the process, and sleeps while nobody runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Running] = set()
        self._awake = threading.Event()
        self._asleep = False
        self._thread: threading.Thread | None = None

    def add(self, running: Running) -> None:
        """Begin to watch."""
        with self._lock:
            self._running.add(running)
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="sql deadlines", daemon=True)
                self._thread.start()
            elif self._asleep:
                self._asleep = False
                self._awake.set()

    def remove(self, running: Running) -> None:
        """Stop watching: after this returns, `running` is not interrupted any more."""
        with self._lock:
            self._running.discard(running)

    def _watch(self) -> None:
        while True:
            with self._lock:
                if not self._running:
                    self._asleep = True
                    self._awake.clear()
                asleep = self._asleep
            if asleep:
                self._awake.wait()
            time.sleep(LOOKS_EVERY_S)
            with self._lock:
                self._look(time.monotonic(), apsw.memory_used())

    def _look(self, now: float, memory: int) -> None:
        for running in self._running:
            if running.stopped is None:
                if running.abandoned or now > running.deadline:
                    running.stopped = "time"
                elif memory > running.memory_max:
                    running.stopped = "memory"
            if running.stopped is not None:
                running.interrupt()


DEADLINES = Deadlines()
