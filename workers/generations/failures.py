"""What making or sweeping generations may raise although nothing is wrong with the code: it is tried again."""

import apsw

from events.errors import LogError
from events.objects.errors import StoreError
from projectors.generations.errors import GenerationError


class NotNow(Exception):
    """It cannot be done at the moment, and nothing is wrong; the message says why."""


class NotArchived(NotNow):
    """The archive has not come as far in time."""


FAILURES = (NotNow, GenerationError, StoreError, LogError, apsw.Error, OSError)
