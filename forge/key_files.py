"""The keys of a node as files: whom the settings name, and its own, which is made when it is first needed."""

from collections.abc import Sequence
from pathlib import Path

from events.objects.age import (
    KEY_FILE_BYTES_MAX,
    Identity,
    InvalidKey,
    Recipient,
    is_private,
    new_identity,
    parse_identities,
    parse_recipients,
)
from events.objects.errors import KeyRefused
from events.objects.keyring import KeySettings
from forge.private_file import create_private
from schemas.encryption import parse_areas
from schemas.settings import InvalidSettings, Settings

NODE_KEY = "node.key"


def key_settings(settings: Settings) -> KeySettings:
    """Return what the settings say of encryption; raise `InvalidSettings` for recipients that are none."""
    files = KeyFiles(settings)
    return KeySettings(recipients(settings), files.identities, parse_areas(settings.encrypt), settings.node_id)


def recipients(settings: Settings) -> list[Recipient]:
    """Return the recipients that the settings name, also in files; raise `InvalidSettings`."""
    found: list[Recipient] = []
    for part in (part.strip() for part in settings.recipients.split(",")):
        try:
            if part:
                is_key = part.startswith(("age1", "ssh-")) or is_private(part)
                found += parse_recipients([part] if is_key else _lines(Path(part)))
        except OSError as error:
            why = f"no public key of age or SSH, and no file that can be read ({error.strerror})"
            raise InvalidSettings([f"FORGE_RECIPIENTS: {part[:80]}: {why}"]) from error
        except (InvalidKey, UnicodeDecodeError) as error:
            shown = "a key" if is_private(part) else part[:80]
            raise InvalidSettings([f"FORGE_RECIPIENTS: {shown}: {error}"]) from error
    if settings.recipients and not found:
        raise InvalidSettings(["FORGE_RECIPIENTS names no public key"])
    return found


def node_key(settings: Settings) -> Path:
    """Return where the key of this node lies; it need not exist."""
    return settings.data_dir / NODE_KEY


class KeyFiles:
    """The private keys of a node, read once."""

    def __init__(self, settings: Settings) -> None:
        named = [Path(part.strip()).expanduser() for part in settings.identity_file.split(",") if part.strip()]
        self._own = None if named else node_key(settings)
        self._paths = named or [node_key(settings)]
        self._name = settings.node_id
        self._found: Sequence[Identity] = ()

    def identities(self, make: bool) -> Sequence[Identity]:
        """Return the private keys, the node's own first; raise `KeyRefused` if a file cannot be used.

        With `make`, a node key that is not there is made; without, there is no key then.
        """
        if not self._found:
            if self._own and not self._own.exists():
                if not make:
                    return ()
                make_node_key(self._own)
            self._found = [identity for path in self._paths for identity in read_identities(path, self._name)]
        return self._found


def make_node_key(path: Path) -> None:
    """Make the key of a node, unless somebody else just did."""
    create_private(path, f"{new_identity()}\n")


def read_identities(path: Path, name: str = "") -> list[Identity]:
    """Return the private keys of a file, which are called `name`; raise `KeyRefused`."""
    try:
        return parse_identities("\n".join(_lines(path)), name)
    except (InvalidKey, OSError, UnicodeDecodeError) as error:
        raise KeyRefused(f"{path} cannot be used as a key: {error}") from error


def _lines(path: Path) -> list[str]:
    with path.expanduser().open("rb") as file:
        raw = file.read(KEY_FILE_BYTES_MAX + 1)
    if len(raw) > KEY_FILE_BYTES_MAX:
        raise InvalidKey(f"longer than {KEY_FILE_BYTES_MAX} bytes")
    return raw.decode().splitlines()
