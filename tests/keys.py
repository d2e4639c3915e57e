"""Keys for tests of encryption: what a node with such a private key and such recipients would say."""

import subprocess
from pathlib import Path

from events.objects.age import Identity, Recipient, new_identity, parse_identities
from events.objects.keyring import KeySettings
from schemas.encryption import AREAS_DEFAULT, parse_areas


def identity(name: str = "") -> Identity:
    """Return a new private key."""
    return parse_identities(new_identity(), name)[0]


def keys_of(
    *private: str | Identity, recipients: tuple[Recipient, ...] | None = None, areas: str = AREAS_DEFAULT
) -> KeySettings:
    """Return the keys of a node; without `recipients` there is one beside the node, whose private half is lost."""
    identities = [one if isinstance(one, Identity) else parse_identities(one)[0] for one in private]
    named = (identity("lost").recipient,) if recipients is None else recipients
    return KeySettings(named, lambda _: identities, parse_areas(areas), "test-node")


def ssh_key(folder: Path, kind: str, passphrase: str = "") -> Path:
    """Make an SSH key (`ed25519` or `rsa`) as people do; the public one lies beside it."""
    path = folder / f"id_{kind}"
    command = ["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "someone@home", "-f", str(path)]
    subprocess.run(command, check=True)
    return path
