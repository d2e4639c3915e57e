"""Why a generation cannot be used. Whoever restores takes an older one, or the log alone.

GenerationError
├── GenerationMissing    the archive lacks the manifest or a chunk that it names
├── GenerationDamaged    bytes are not those that were stored, or do not belong together
└── OtherHistory         it stands where the archived log has another record, or none
"""


class GenerationError(Exception):
    """Base of everything in this module."""


class GenerationMissing(GenerationError):
    """The archive lacks the manifest or a chunk that it names."""


class GenerationDamaged(GenerationError):
    """Bytes are not those that were stored, or do not belong together."""


class OtherHistory(GenerationError):
    """It stands at a position at which the archived log has another record, or none."""
