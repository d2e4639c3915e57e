"""What an object store refuses or cannot do.

StoreError
├── ObjectMissing           there is no object of that key
├── PreconditionFailed      the key is taken already, or holds another version than the one to replace
├── CorruptObject           bytes are not those that were stored
└── StoreUnavailable        nobody knows whether it was done; try again later
    └── StoreRefused        it will go on refusing until somebody mends the settings: no bucket, no rights
        ├── Unsupported     the server cannot do such a request at all
        ├── Fenced          this process may not write now, so nothing was sent
        └── KeyRefused      the objects are encrypted, and the key here does not open them
"""


class StoreError(Exception):
    """Base of everything in this module."""


class ObjectMissing(StoreError):
    """There is no object of that key."""


class PreconditionFailed(StoreError):
    """The key is taken already, or holds another version than the one to replace.

    After an answer that got lost this may be the caller's own doing: look at what is there.
    """


class CorruptObject(StoreError):
    """Bytes are not those that were stored, on their way or at rest. They are never handed out."""


class StoreUnavailable(StoreError):
    """The store does not answer, or not as it should. Whether a change was made is unknown."""


class StoreRefused(StoreUnavailable):
    """The store answers and refuses: the bucket is missing, or the keys do not open it."""


class Unsupported(StoreRefused):
    """The server understands the request, and cannot do it at all."""


class Fenced(StoreRefused):
    """This process may not write now: another one may be the writer. Nothing was sent."""


class KeyRefused(StoreRefused):
    """The objects are encrypted for others, or there is no key here; nothing was read or stored.

    `fix` is what mends it, if that is not another key.
    """

    def __init__(self, why: str, fix: str = "name a key that opens it in FORGE_IDENTITY_FILE") -> None:
        super().__init__(why)
        self.fix = fix
