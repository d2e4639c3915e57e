"""age: recipients and identities as people write them, encryption of bytes and files, sizes of what is inside.

AgeError
├── NotForUs     none of the identities opens it
└── NotAge       it is no age file, or not a whole one
"""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, Self

from blake3 import blake3

MAGIC = b"age-encryption.org/v1\n"
HEADER_BYTES_MAX = 64 << 10  # of 32 recipients with RSA keys of 16,384 bits, twice
KEY_FILE_BYTES_MAX = 64 << 10
FINGERPRINT_DIGITS = 10
SSH_TYPES = ("ssh-ed25519", "ssh-rsa")
_NONCE_BYTES = 16
_CHUNK_BYTES, _TAG_BYTES = 64 << 10, 16
_SSH_BEGIN, _SSH_END = "-----BEGIN OPENSSH PRIVATE KEY-----", "-----END OPENSSH PRIVATE KEY-----"
_NO_MATCH = "No matching keys found"


class AgeError(Exception):
    """Base of everything in this module."""


class NotForUs(AgeError):
    """None of the identities opens it."""


class NotAge(AgeError):
    """It is no age file, or not a whole one."""


class InvalidKey(ValueError):
    """A text is no key that can be used; the message says why."""


class Reader(Protocol):
    """Gives bytes."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class Writer(Protocol):
    """Takes bytes."""

    def write(self, data: bytes, /) -> int:
        """Take all of them."""


@dataclass(frozen=True, slots=True)
class Recipient:
    """A public key, and what its owner is called."""

    public: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `age1...` or an SSH public key, with or without a name behind it; raise `InvalidKey`."""
        if is_private(text):
            raise InvalidKey("it is a private key, and the public one is wanted: `age-keygen -y FILE` prints it")
        words = text.split()
        count = 2 if words and words[0] in SSH_TYPES else 1
        recipient = cls(" ".join(words[:count]), " ".join(words[count:]).removeprefix("#").strip())
        recipient.loaded()
        return recipient

    @property
    def fingerprint(self) -> str:
        """A short name of the key, the same everywhere."""
        return blake3(self.public.encode()).hexdigest()[:FINGERPRINT_DIGITS]

    def __str__(self) -> str:
        return f"{self.name} {self.fingerprint}".strip()

    def loaded(self) -> Any:
        """Return it as pyrage wants it; raise `InvalidKey`."""
        age = _age()
        kind = age.ssh if self.public.startswith("ssh-") else age.x25519
        try:
            return kind.Recipient.from_str(self.public)
        except age.RecipientError as error:
            raise InvalidKey(f"not a public key of age or SSH: {self.public[:80]!r} ({error})") from error


@dataclass(frozen=True, slots=True)
class Identity:
    """A private key; never printed."""

    recipient: Recipient
    loaded: Any = field(repr=False)

    def secret(self) -> bytes:
        """Return the private half of a key of age."""
        return str(self.loaded).encode()


def new_identity() -> str:
    """Return a new private key of age as it is written into files."""
    return str(_age().x25519.Identity.generate())


def is_private(text: str) -> bool:
    """Say whether a text looks like a private key, which no message may repeat."""
    upper = text.upper()
    return "AGE-SECRET-KEY-" in upper or "PRIVATE KEY-----" in upper


def parse_recipients(lines: Iterable[str]) -> list[Recipient]:
    """Read recipients, one a line; blank lines and those that begin with # count for nothing."""
    return [Recipient.parse(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def parse_identities(text: str, name: str = "") -> list[Identity]:
    """Read a file of private keys, of age or OpenSSH; raise `InvalidKey`."""
    if _SSH_BEGIN in text:
        return [_ssh_identity(text, name)]
    if "PRIVATE KEY-----" in text:
        raise InvalidKey("an SSH key in an older format: `ssh-keygen -p -f FILE` writes it in the present one")
    if text.startswith(("age-encryption.org/", "-----BEGIN AGE")):
        raise InvalidKey("it is encrypted itself: `age -d` writes the key that is in it")
    lines = [line.strip() for line in text.splitlines()]
    found = [_x25519_identity(line, name) for line in lines if line and not line.startswith("#")]
    if not found:
        raise InvalidKey("there is no key in it")
    return found


def _x25519_identity(line: str, name: str) -> Identity:
    age = _age()
    try:
        loaded = age.x25519.Identity.from_str(line)
    except age.IdentityError as error:
        raise InvalidKey(f"not a private key of age: {error}") from error
    return Identity(Recipient(str(loaded.to_public()), name), loaded)


def _ssh_identity(text: str, name: str) -> Identity:
    age = _age()
    try:
        loaded = age.ssh.Identity.from_buffer(text.encode())
    except age.IdentityError as error:
        why = "it has a passphrase: give a copy without one (`ssh-keygen -p`), or a key of age"
        raise InvalidKey(why if "decrypted first" in str(error) else f"not a private key of SSH: {error}") from error
    return Identity(Recipient(_ssh_public(text), name), loaded)


def _ssh_public(text: str) -> str:
    """Return the public key that an OpenSSH private key carries in the clear (openssh-key-v1)."""
    raw = base64.b64decode("".join(text.partition(_SSH_BEGIN)[2].partition(_SSH_END)[0].split()))
    rest = raw.removeprefix(b"openssh-key-v1\0")
    for _ in range(3):  # cipher, derivation of its key, options of that
        _, rest = _ssh_string(rest)
    public, _ = _ssh_string(rest[4:])  # after the number of keys
    kind, _ = _ssh_string(public)
    return f"{kind.decode()} {base64.b64encode(public).decode()}"


def _ssh_string(raw: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(raw[:4], "big")
    return raw[4 : 4 + length], raw[4 + length :]


def is_sealed(data: bytes) -> bool:
    """Say whether bytes begin as an age file does."""
    return data.startswith(MAGIC)


def encrypt(data: bytes, recipients: Sequence[Recipient], *, armoured: bool = False) -> bytes:
    """Return `data` as an age file."""
    return bytes(_age().encrypt(data, [recipient.loaded() for recipient in recipients], armored=armoured))


def encrypt_stream(source: Reader, target: Writer, recipients: Sequence[Recipient]) -> None:
    """Write what `source` gives as an age file, in little memory."""
    _age().encrypt_io(source, target, [recipient.loaded() for recipient in recipients])


def encrypt_errors() -> type[Exception]:
    """Return what `encrypt_stream` raises, also for what its source and target raise."""
    error: type[Exception] = _age().EncryptError
    return error


def decrypt(data: bytes, identities: Sequence[Identity]) -> bytes:
    """Return what an age file holds; raise `NotForUs` or `NotAge`."""
    if not identities:
        raise NotForUs("there is no key here")
    age = _age()
    try:
        return bytes(age.decrypt(data, [identity.loaded for identity in identities]))
    except age.DecryptError as error:
        if str(error) == _NO_MATCH:
            raise NotForUs("no key here opens it") from error
        raise NotAge(f"not a whole age file: {error}") from error


def inner_size(size_bytes: int, head: bytes) -> int | None:
    """Return how many bytes an age file of `size_bytes` holds; None if `head` ends before its header does."""
    end = head.find(b"\n", head.find(b"\n--- ") + 1) + 1 if b"\n--- " in head else 0
    if not end:
        return None
    body = size_bytes - end - _NONCE_BYTES
    return body - -(-body // (_CHUNK_BYTES + _TAG_BYTES)) * _TAG_BYTES


def _age() -> Any:
    """Return pyrage, which has no types, and which a node that keeps no secrets does not load."""
    return import_module("pyrage")
