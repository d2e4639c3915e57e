"""The process that hashes mapped files: on standard input it gets descriptors with sizes, and answers digests.

It is run by path, isolated, so that it starts fast and needs nothing but the hash library.
"""

import mmap
import os
import resource
import signal
import socket

from blake3 import blake3

CHUNK_BYTES = 64 << 20
SIZE_BYTES = 8


def main() -> None:
    """Serve until the other side has gone; die of a file that shrinks or cannot be read."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the parent, which then ends us
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=0) as door:
        while True:
            message, descriptors, _, _ = socket.recv_fds(door, SIZE_BYTES, 1)
            if not message:
                return
            door.sendall(digest(descriptors[0], int.from_bytes(message, "little")))


def digest(descriptor: int, size_bytes: int) -> bytes:
    """Return the BLAKE3 of the first `size_bytes` of a file, and close it."""
    hasher = blake3(max_threads=blake3.AUTO)
    for offset in range(0, size_bytes, CHUNK_BYTES):
        length = min(CHUNK_BYTES, size_bytes - offset)
        with mmap.mmap(descriptor, length, access=mmap.ACCESS_READ, offset=offset) as part:
            part.madvise(mmap.MADV_SEQUENTIAL)
            hasher.update(part)
    os.close(descriptor)
    return hasher.digest()


if __name__ == "__main__":
    main()
