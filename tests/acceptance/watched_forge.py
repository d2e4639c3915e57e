"""`forge`, run so that every file it opens below a folder is noted: a program, not a module.

`python watched_forge.py NOTES FOLDER ARGUMENTS...`; NOTES gets each path with a NUL behind it, in the order of the
attempts. The file that WATCHED_VANISHES names disappears when it is about to be opened; whoever is about to open the
one that WATCHED_HANGS names never does.
"""

import ctypes
import os
import sys
import threading

CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2
CAPABILITY_VERSION_3 = 0x20080522


def obey_file_modes() -> None:
    """Give up root's right to read every file, so that an unreadable one is unreadable for root too."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # twice effective, permitted, inheritable
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    for one in range(2):
        sets[one] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def watch(notes: str, folder: str, vanishing: str, hanging: str) -> None:
    """Note every open below `folder`: Python raises the event before it makes the call."""
    descriptor = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    below = os.fsencode(folder) + b"/"

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            path = os.fsencode(arguments[0])
            if path.startswith(below):
                os.write(descriptor, path + b"\0")
                if path == os.fsencode(vanishing):
                    os.unlink(path)
                if path == os.fsencode(hanging):
                    threading.Event().wait()

    sys.addaudithook(hear)


if __name__ == "__main__":
    obey_file_modes()
    notes, folder, *arguments = sys.argv[1:]
    watch(notes, folder, *(os.environ.pop(name, "") for name in ("WATCHED_VANISHES", "WATCHED_HANGS")))
    from forge.cli import main

    main(arguments)
