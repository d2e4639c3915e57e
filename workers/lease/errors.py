"""Why a writer lease cannot be kept at all, as long as nobody mends something.

LeaseError
├── LeaseModeImpossible     the store cannot do what the mode needs
├── LeaseRefused            the store refuses a place that it has never served
└── LeaseUnreadable         what lies at the place of the lease is none
"""


class LeaseError(Exception):
    """Base of everything in this module; the message says how to mend it."""


class LeaseModeImpossible(LeaseError):
    """The store cannot do what the mode needs."""


class LeaseRefused(LeaseError):
    """The store refuses a place that it has never served: bucket or keys are wrong, or a permission is missing."""


class LeaseUnreadable(LeaseError):
    """What lies at the place of the lease is none, so nobody knows who may write."""
