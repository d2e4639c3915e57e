"""A node whose archive is encrypted, as a user sees it: who can read it, who cannot, and how that is changed."""

import contextlib
import hmac
import json
import random
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard

from events.objects import age
from events.objects.age import Identity, NotForUs, new_identity, parse_identities
from events.objects.s3 import S3Store
from forge.key_files import read_identities
from forge.stack.weed import Weed
from schemas.encryption import RECIPIENTS_KEY, is_encrypted, parse_areas
from schemas.ids import parse_cid
from tests.acceptance.archived import caught_up
from tests.acceptance.asking import cid_of, present, taken
from tests.acceptance.conftest import StartNode
from tests.acceptance.node_process import NodeProcess
from tests.faults.killer import fresh_seed
from tests.keys import ssh_key
from tests.s3_stores import s3_environ, s3_store

needs_age = pytest.mark.skipif(not shutil.which("age"), reason="needs age (Debian: apt-get install age)")
MARK = "plaintext-marker-5b1d"
SECRET = "secret of a provider"
ALL = parse_areas("control,documents,vector,snapshot")


class Archived:
    """The objects of one prefix, as whoever has the bucket sees them."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects

    @classmethod
    async def read(cls, store: S3Store, prefix: str) -> "Archived":
        """Read all of them."""
        keys, after = [], ""
        while page := await store.list(f"{prefix}/", after=after):
            keys += [one.key for one in page]
            after = page[-1].key
        return cls({key.removeprefix(f"{prefix}/"): (await store.get(key)).data for key in keys})

    def sealed(self) -> dict[str, bytes]:
        """Return those that policy wants encrypted."""
        return {key: data for key, data in self.objects.items() if is_encrypted(key, ALL)}

    def opened(self, identity: Identity) -> dict[str, bytes]:
        """Return what is in them; raise `NotForUs`."""
        return {key: age.decrypt(data, [identity]) for key, data in self.sealed().items()}


def unpacked(data: bytes) -> bytes:
    """Return the bytes, and behind them what each zstd frame in them holds."""
    found, start = [data], 0
    while (start := data.find(zstandard.MAGIC_NUMBER.to_bytes(4, "little"), start)) >= 0:
        with contextlib.suppress(zstandard.ZstdError):  # four bytes that happened to look so
            found.append(zstandard.ZstdDecompressor().decompressobj().decompress(data[start:]))
        start += 4
    return b"".join(found)


async def _use(node: NodeProcess) -> None:
    """Write the marker wherever a user can: rows, messages, files, webhooks."""
    assert (await node.cli("db", "create", "notes")).code == 0
    async with node.http() as http:
        for sql in ("CREATE TABLE t (a)", f"INSERT INTO t VALUES ('{MARK}')"):
            assert (await http.post("/api/v1/db/notes/query/exec", json={"sql": sql})).is_success
        sent = {"topic": "a/b", "payload": MARK}
        assert (await http.post("/api/v1/db/notes/messages", json=sent)).is_success
        content = f"{MARK} in a file that is to be found again".encode() * 20
        await taken(http, content)
        await present(http, content)
    (node.home / "secrets").write_text(SECRET)
    set_up = ("webhook", "set", "notes", "gh", "--provider", "github", "--reject", "--secrets-from")
    done = await node.cli(*set_up, str(node.home / "secrets"))
    assert done.code == 0, done.err
    await caught_up(node)


async def _webhook(node: NodeProcess) -> int:
    body = MARK.encode()
    headers = {"X-Hub-Signature-256": f"sha256={hmac.new(SECRET.encode(), body, sha256).hexdigest()}"}
    async with node.http() as http:
        return (await http.post("/api/v1/db/notes/webhooks/gh", content=body, headers=headers)).status_code


def _keys(home: Path, *kinds: str) -> list[Identity]:
    """Make keys, and return them; the files lie in `home`."""
    found = []
    for kind in kinds:
        if kind in ("ed25519", "rsa"):
            path = ssh_key(home, kind)
        else:
            path = home / f"{kind}.key"
            path.write_text(new_identity())
        found.append(parse_identities(path.read_text(), kind)[0])
    return found


@needs_age
async def test_no_object_shows_what_is_in_it_and_each_recipient_reads_all(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """G1, G22, G25: neither rows nor messages nor files; a node, an age and an SSH key open all, a third nothing."""
    root, ssh, third = _keys(tmp_path, "root", "ed25519", "third")
    prefix = f"sealed-{random.Random(fresh_seed()).randrange(1 << 30)}"
    recipients = f"{root.recipient.public},{tmp_path / 'id_ed25519.pub'}"
    extra = s3_environ(weed, prefix=prefix) | {"FORGE_ARCHIVE_SEAL_S": "0.1", "FORGE_RECIPIENTS": recipients}
    node = await start_node(extra=extra)
    await _use(node)
    made = await node.cli("replicate", "generation")
    assert made.code == 0, made.err
    await caught_up(node)
    assert (await node.cli("keys", "check", "--all")).code == 0
    assert await node.stop() == 0
    digests = await _digests(node)
    store = s3_store(weed)
    archived = await Archived.read(store, prefix)
    await store.close()

    clear = {key for key, data in archived.objects.items() if not age.is_sealed(data)}
    assert RECIPIENTS_KEY in clear
    assert not clear & archived.sealed().keys()
    for key, data in archived.objects.items():
        assert MARK.encode() not in unpacked(data), key
        assert SECRET.encode() not in data, key
    (own,) = read_identities(node.data / "node.key")
    wanted = archived.opened(own)
    for reader in (root, ssh):
        assert archived.opened(reader) == wanted
    with pytest.raises(NotForUs):
        archived.opened(third)
    found = {key.partition("/")[0] for key, data in wanted.items() if MARK.encode() in unpacked(data)}
    assert {"log", "payloads", "pages"} <= found, "the marker is nowhere, so this proves nothing"
    assert any(key.startswith("log/FORGE_VECTOR/") for key in wanted)

    _assert_age_opens(archived, wanted, tmp_path)
    for file in ("root.key", "id_ed25519"):
        restored = NodeProcess(tmp_path / f"by-{file}", extra=extra | {"FORGE_IDENTITY_FILE": str(tmp_path / file)})
        restored.home.mkdir()
        done = await restored.cli("restore")
        assert done.code == 0, done.err
        assert await _digests(restored) == digests
    other = NodeProcess(tmp_path / "other", extra=extra | {"FORGE_IDENTITY_FILE": str(tmp_path / "third.key")})
    await _assert_refused(other, third, weed, archived)


async def _digests(node: NodeProcess) -> dict[str, str]:
    verified = await node.cli("rebuild", "--verify", "--json")
    assert verified.code == 0, verified.err
    return {one["projection"]: one["digest"] for one in json.loads(verified.out)}


def _assert_age_opens(archived: Archived, wanted: dict[str, bytes], keys: Path) -> None:
    """Fail unless the age tool itself opens objects, by the age key and by the SSH key."""
    some = [next(key for key in wanted if key.startswith(folder)) for folder in ("log/FORGE_DOCS/", "payloads/")]
    for key in some:
        for file in ("root.key", "id_ed25519"):
            command = ["age", "-d", "-i", str(keys / file)]
            opened = subprocess.run(command, input=archived.sealed()[key], capture_output=True, check=True)
            assert opened.stdout == wanted[key]
    payload = next(key for key in some if key.startswith("payloads/"))
    assert cid_of(wanted[payload]) == parse_cid(payload.rpartition("/")[2])


async def _assert_refused(node: NodeProcess, third: Identity, weed: Weed, archived: Archived) -> None:
    """Fail unless a node with another key ends at once, and says why, with nothing stored or made of the archive."""
    node.home.mkdir()
    for command in (["up", "--listen", "127.0.0.1:0"], ["keys", "check"], ["restore"]):
        done = await node.cli(*command)
        assert done.code == 4, (command, done.out, done.err)
        assert third.recipient.fingerprint in done.err
        assert "Traceback" not in done.err
    assert not node.settings.control_db.exists()
    node.environ |= {"FORGE_IDENTITY_FILE": str(node.home.parent / "root.key"), "FORGE_RECIPIENTS": ""}
    forgot = await node.cli("up", "--listen", "127.0.0.1:0")
    assert (forgot.code, "set FORGE_RECIPIENTS" in forgot.err) == (4, True), forgot.err
    store = s3_store(weed)
    assert (await Archived.read(store, node.settings.s3_prefix)).objects == archived.objects
    await store.close()


async def test_a_recipient_that_was_revoked_reads_nothing_any_more(
    start_node: StartNode, weed: Weed, tmp_path: Path
) -> None:
    """G25: and neither does the former key of the node, which still opens the secrets that were kept with it."""
    revoked, root = _keys(tmp_path, "revoked", "root")
    prefix = f"rotated-{random.Random(fresh_seed()).randrange(1 << 30)}"
    extra = s3_environ(weed, prefix=prefix) | {"FORGE_ARCHIVE_SEAL_S": "0.1"}
    node = await start_node(extra=extra | {"FORGE_RECIPIENTS": revoked.recipient.public})
    await _use(node)
    (former,) = read_identities(node.data / "node.key")
    node.environ["FORGE_RECIPIENTS"] = root.recipient.public
    busy = await node.cli("keys", "rotate", "--new-node-key")
    assert busy.code == 5, busy.err
    reads = {"FORGE_IDENTITY_FILE": str(tmp_path / "revoked.key"), "FORGE_LEASE_DURATION_S": "3"}
    elsewhere = NodeProcess(tmp_path / "elsewhere", extra=node.environ | extra | reads)
    elsewhere.home.mkdir()
    elsewhere.environ |= {"FORGE_DATA_DIR": str(elsewhere.data), "FORGE_CACHE_DIR": str(elsewhere.cache)}
    refused = await elsewhere.cli("keys", "rotate")
    assert (refused.code, "is written by" in refused.err) == (5, True), refused.err
    assert await node.stop() == 0
    store = s3_store(weed)
    before = (await Archived.read(store, prefix)).opened(revoked)

    assert (await node.cli("keys", "rotate", "--new-node-key")).code == 0

    archived = await Archived.read(store, prefix)
    own = read_identities(node.data / "node.key")
    assert [one.recipient for one in own[1:]] == [former.recipient]
    for reader in (own[0], root):
        assert archived.opened(reader) == before
    for reader in (former, revoked):
        for key, data in archived.sealed().items():
            with pytest.raises(NotForUs):
                age.decrypt(data, [reader])
            assert key
    listed = json.loads((await node.cli("keys", "list", "--json")).out)
    assert {one["public"]: one["reads"] for one in listed["recipients"]} == {
        root.recipient.public: "all",
        own[0].recipient.public: "all",
    }
    assert not listed["rotating"]
    await node.start()
    assert await _webhook(node) == 201
    await caught_up(node)
    assert (await node.cli("keys", "check", "--all")).code == 0
    await store.close()
