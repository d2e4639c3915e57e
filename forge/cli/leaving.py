"""How a command line leaves its process: with the exit code of its command, whatever Rust threads are at."""

import atexit
import os
import sys
from contextlib import suppress


def leave_with(code: int) -> None:
    """Have the process end with `code` when threads have ended and everything else that is due at its end was done.

    The threads of obstore go on while the interpreter is taken apart. One that needs it then aborts the process, and
    a refusal that was told rightly ends with 134. So where obstore is used, the interpreter is left as it is.
    """
    if "obstore" in sys.modules:
        atexit.register(_leave, code)


def _leave(code: int) -> None:
    atexit.unregister(_leave)
    atexit._run_exitfuncs()  # this one was registered last and runs first; those of others come now
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader has left, or it is closed
            stream.flush()
    os._exit(code)
