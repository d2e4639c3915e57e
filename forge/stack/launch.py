"""Become a child program that the kernel kills when its parent dies; a script, standard library only."""

# A program of its own because a preexec_fn runs Python between fork and exec, which deadlocks
# now and then when the parent has threads.

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by `argv[2:]`, unless the parent `argv[1]` is already gone."""
    parent_pid, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.exit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent_pid:  # it died before prctl, and no signal will come any more
        sys.exit(f"parent {parent_pid} is gone")
    try:
        os.execv(program[0], program)
    except OSError as error:
        sys.exit(f"cannot run {program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
