"""When a statement counts as quick enough for the event loop, and for how long a document loses that."""

QUICK_S = 0.001  # of processor time
RUNS = 3  # so many in a row were quick
HERE_S = 0.005  # then it is interrupted, at the next look of the deadlines, and goes to a thread
STALL_S = 0.25  # waiting for the disk, or for its turn on a busy machine
BANNED_S = 60.0
SQL_CHARACTERS_MAX = 2048
