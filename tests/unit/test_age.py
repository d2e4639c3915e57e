"""Keys as people write them, and age files: sizes, and what does not open."""

import shutil
import subprocess
from pathlib import Path

import pytest

from events.objects import age
from events.objects.age import InvalidKey, NotAge, NotForUs, Recipient, parse_identities, parse_recipients
from forge.key_files import recipients
from schemas.settings import InvalidSettings, Settings
from tests.keys import identity, ssh_key

needs_age = pytest.mark.skipif(not shutil.which("age"), reason="needs age (Debian: apt-get install age)")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 200_000])
@pytest.mark.parametrize("readers", [1, 3])
def test_the_size_of_what_is_inside_is_known_from_outside(size: int, readers: int) -> None:
    sealed = age.encrypt(bytes(size), [identity().recipient for _ in range(readers)])

    assert age.is_sealed(sealed)
    assert age.inner_size(len(sealed), sealed[: 4 << 10]) == size
    assert age.inner_size(len(sealed), sealed[:30]) is None


@pytest.mark.parametrize("kind", ["x25519", "ed25519", "rsa"])
def test_each_kind_of_key_opens_what_is_encrypted_for_it(kind: str, tmp_path: Path) -> None:
    """G25: and the public half of a private key is found in it."""
    if kind == "x25519":
        own = identity()
        recipient = own.recipient
    else:
        path = ssh_key(tmp_path, kind)
        (own,) = parse_identities(path.read_text())
        (recipient,) = parse_recipients(path.with_suffix(".pub").read_text().splitlines())
        assert recipient.name == "someone@home"
    assert own.recipient.public == recipient.public
    assert own.recipient.fingerprint == recipient.fingerprint

    sealed = age.encrypt(b"text", [identity().recipient, recipient])

    assert age.decrypt(sealed, [identity(), own]) == b"text"
    with pytest.raises(NotForUs):
        age.decrypt(sealed, [identity()])
    with pytest.raises(NotForUs):
        age.decrypt(sealed, [])


def test_what_is_no_whole_age_file_is_told_from_a_wrong_key() -> None:
    """K3.6."""
    own = identity()
    sealed = age.encrypt(b"x" * 100_000, [own.recipient])
    altered = bytearray(sealed)
    altered[-1] ^= 1
    for bad in (b"", b"text", sealed[:40], sealed[:-1], sealed[:70_000], bytes(altered)):
        with pytest.raises(NotAge):
            age.decrypt(bad, [own])


def test_recipients_are_read_with_names_and_comments(tmp_path: Path) -> None:
    own, other = identity().recipient.public, identity().recipient.public
    lines = ["# who may read", "", f"{own} # the safe", f"{other} second node"]

    assert parse_recipients(lines) == [Recipient(own, "the safe"), Recipient(other, "second node")]


@pytest.mark.parametrize(
    "text", ["age1", "age1qqqq", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-dss AAAA", "x", "-----BEGIN"]
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        Recipient.parse(text)


def test_a_private_key_given_as_a_recipient_is_not_repeated(tmp_path: Path) -> None:
    """G25: by itself, in lower case, as a file of age or of OpenSSH: no part of it gets into a log."""
    made = age.new_identity()
    (tmp_path / "root.key").write_text(f"# public key: x\n{made}\n")
    ssh = ssh_key(tmp_path, "ed25519")
    for given in (made, made.lower(), f"{made} root", str(tmp_path / "root.key"), str(ssh)):
        with pytest.raises(InvalidSettings, match="age-keygen -y") as refused:
            recipients(Settings.load({"FORGE_RECIPIENTS": given}))
        assert made[16:40].lower() not in str(refused.value).lower(), given


def test_what_is_neither_a_key_nor_a_file_is_said_to_be_so() -> None:
    with pytest.raises(InvalidSettings, match=r"hello: no public key of age or SSH, and no file .*No such file"):
        recipients(Settings.load({"FORGE_RECIPIENTS": "hello"}))


def test_files_that_hold_no_usable_private_key_are_refused(tmp_path: Path) -> None:
    """The reason says what to do."""
    locked = ssh_key(tmp_path, "ed25519", "secret").read_text()
    for text, why in [
        (locked, "passphrase"),
        ("-----BEGIN RSA PRIVATE KEY-----\n", "older format"),
        ("age-encryption.org/v1\n", "encrypted itself"),
        ("", "no key in it"),
        ("# only a comment\n", "no key in it"),
        ("AGE-SECRET-KEY-1ABC\n", "not a private key"),
        (identity().recipient.public, "not a private key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n", "not a private key"),
    ]:
        with pytest.raises(InvalidKey, match=why):
            parse_identities(text)


def test_a_private_key_is_not_printed() -> None:
    """PR6."""
    own = identity("node")

    assert own.secret().startswith(b"AGE-SECRET-KEY-1")
    assert "SECRET" not in repr(own)


@needs_age
@pytest.mark.parametrize("kind", ["x25519", "ed25519", "rsa"])
def test_the_age_tool_reads_ours_and_we_read_its(kind: str, tmp_path: Path) -> None:
    """G1: for several recipients, of each kind."""
    path = tmp_path / "key"
    if kind == "x25519":
        path.write_text(age.new_identity())
    else:
        path = ssh_key(tmp_path, kind)
    (own,) = parse_identities(path.read_text())
    text = b"text\n" * 40_000
    sealed = age.encrypt(text, [identity().recipient, own.recipient])

    opened = subprocess.run(["age", "-d", "-i", str(path)], input=sealed, capture_output=True, check=True).stdout
    theirs = subprocess.run(["age", "-r", own.recipient.public], input=text, capture_output=True, check=True).stdout

    assert opened == text
    assert age.decrypt(theirs, [own]) == text
