"""Hashing large files through a memory map, in a process of its own.

A map saves the copy that reading makes, which is a third of the time when the file is in the page cache. But
a file that shrinks, or a disk that fails, kills who has it mapped. So a child does it; when the child dies the
file is read instead, which gives a proper error.
"""

import socket
import subprocess
import sys
import threading
from pathlib import Path

from forge.ingest.mapped_child import SIZE_BYTES

MAPPED_BYTES_MIN = 64 << 20
DIGEST_BYTES = 32
STOP_POLL_S = 0.1
_PROGRAM = Path(__file__).with_name("mapped_child.py")


class MappedHasher:
    """A child process that is started when first needed; files take turns, as each uses all cores."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._door: socket.socket | None = None

    def digest(self, descriptor: int, size_bytes: int, stop: threading.Event) -> bytes | None:
        """Return the BLAKE3 of the first `size_bytes` of an open file, None if it has to be read instead.

        Returns None soon after `stop` is set, too.
        """
        with self._turn:
            if stop.is_set():
                return None
            try:
                digest = self._ask(descriptor, size_bytes, stop)
            except OSError:
                digest = None
            if digest is None:
                self._end()
            return digest

    def close(self) -> None:
        """End the child."""
        with self._turn:
            self._end()

    def _ask(self, descriptor: int, size_bytes: int, stop: threading.Event) -> bytes | None:
        door = self._door or self._start()
        socket.send_fds(door, [size_bytes.to_bytes(SIZE_BYTES, "little")], [descriptor])
        digest = b""
        while len(digest) < DIGEST_BYTES:
            try:
                part = door.recv(DIGEST_BYTES - len(digest))
            except TimeoutError:
                if stop.is_set():
                    return None
                continue
            if not part:
                return None
            digest += part
        return digest

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-I", str(_PROGRAM)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        ours.settimeout(STOP_POLL_S)
        self._door = ours
        return ours

    def _end(self) -> None:
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None
