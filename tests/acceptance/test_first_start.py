"""The first start against an object store, as its user sees it: what must be mended is told at once."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from forge.stack.weed import Weed
from tests.acceptance.conftest import StartNode
from tests.acceptance.daemon_process import DaemonProcess
from tests.acceptance.node_process import NodeProcess
from tests.s3_stores import s3_environ

UP, DAEMON = ("up", "--listen", "127.0.0.1:0"), ("replicate", "daemon")
AWS_KEYS = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_CONFIG_FILE": "/none"}
WRONG = {
    "bucket": ({"FORGE_S3_BUCKET": "no-such-bucket"}, 4, "NoSuchBucket"),
    "secret": ({"FORGE_S3_SECRET_ACCESS_KEY": "guessed"}, 4, "SignatureDoesNotMatch"),
    "key": ({"FORGE_S3_ACCESS_KEY_ID": "guessed"}, 4, "InvalidAccessKeyId"),
    "no keys": ({"FORGE_S3_ACCESS_KEY_ID": "", "FORGE_S3_SECRET_ACCESS_KEY": ""} | AWS_KEYS, 4, "no keys of S3"),
    "half a key": ({"FORGE_S3_SECRET_ACCESS_KEY": ""}, 2, "set both"),
    "endpoint": ({"FORGE_S3_ENDPOINT_URL": "localhost:1"}, 2, "must begin with http://"),
    "recipients": ({"FORGE_RECIPIENTS": "age1nonsense"}, 2, "FORGE_RECIPIENTS: age1nonsense"),
}


@pytest.mark.parametrize(("command", "what"), [*((UP, what) for what in WRONG), (DAEMON, "bucket")])
async def test_what_must_be_mended_ends_the_start_and_is_told(
    tmp_path: Path, weed: Weed, command: tuple[str, ...], what: str
) -> None:
    """In four lines, with the exit code of its kind, without a traceback."""
    environ, code, why = WRONG[what]
    node = NodeProcess(tmp_path, extra=s3_environ(weed, prefix="first-start") | environ)

    done = await node.cli(*command)

    assert (done.code, done.out) == (code, ""), done.err
    told = dict(line.split(":", 1) for line in done.err.splitlines() if line.startswith(("what:", "why:", "fix:")))
    assert why in told["why"], done.err
    assert "FORGE_" in told["fix"] or "variables named above" in told["fix"] or "settings named above" in told["fix"]
    assert "Traceback" not in done.err
    await node.close()


@pytest.mark.parametrize(
    ("command", "page"), [("keys list", "encryption"), ("lease status", "failover"), ("restore", "restore")]
)
async def test_commands_that_ask_the_store_say_alike_that_there_is_no_bucket(
    tmp_path: Path, weed: Weed, command: str, page: str
) -> None:
    """Whether they list or read, and with the page to read on."""
    node = NodeProcess(tmp_path, extra=s3_environ(weed, prefix="no") | {"FORGE_S3_BUCKET": "no-such-bucket"})

    done = await node.cli(*command.split())

    told = dict(line.split(":", 1) for line in done.err.splitlines())
    assert done.code == 4, done.err
    assert told["why"].endswith(": The specified bucket does not exist (NoSuchBucket)")
    assert told["more"].strip() == f"docs/{page}.md"
    await node.close()


async def test_the_bucket_of_the_settings_is_asked_also_beside_a_node_with_a_store_of_its_own(
    tmp_path: Path, weed: Weed
) -> None:
    """`forge up --s3` here, and the archive of another machine in FORGE_S3_*."""
    node = NodeProcess(tmp_path, options=("--s3",))
    await node.start()
    assert json.loads((await node.cli("lease", "status", "--json")).out)["found"]
    node.environ |= s3_environ(weed, prefix="elsewhere")

    said = json.loads((await node.cli("lease", "status", "--json")).out)
    assert (said["bucket"], said["found"]) == (node.environ["FORGE_S3_BUCKET"], False)
    for command in (("restore", "notes", "--to", "notes.db"), ("replicate", "drill")):
        done = await node.cli(*command)
        assert (done.code, f"bucket {said['bucket']} of" in done.err) == (3, True), done.out + done.err
    assert "Not encrypted" in (await node.cli("keys", "list")).out
    await node.close()


async def test_bad_recipients_are_told_before_a_store_is_started(tmp_path: Path) -> None:
    """`forge up --s3`: nothing is made of it."""
    node = NodeProcess(tmp_path, extra={"FORGE_RECIPIENTS": "age1nonsense"})

    done = await node.cli("up", "--s3", "--listen", "127.0.0.1:0")

    assert (done.code, "age1nonsense" in done.err) == (2, True), done.err
    assert not (node.data / "weed").exists()


@pytest.mark.parametrize("kind", [DaemonProcess, pytest.param(NodeProcess, marks=pytest.mark.long)])
async def test_a_store_that_is_away_is_waited_for_and_that_is_told(
    tmp_path: Path, weed: Weed, unused_tcp_port: int, kind: Callable[..., NodeProcess]
) -> None:
    """Whoever starts it reads on the terminal that nothing is written there yet, and why."""
    node = kind(tmp_path, extra=s3_environ(weed, port=unused_tcp_port, prefix="away"))
    await node.start(until_ready=False)
    line = await node.announced()
    assert "S3 does not answer" in (line.get("why_not") or line["waits_for"])
    assert node.log.read_text().count("nobody tells who holds the writer lease") <= 1, "said once, not at each attempt"
    assert await node.stop() == 0
    await node.close()


async def test_a_node_says_who_writes(start_node: StartNode, weed: Weed) -> None:
    """The writer nothing, a standby at its start, and when it is asked for what only the writer does."""
    extra = s3_environ(weed, prefix="told")
    first = await start_node(extra=extra | {"FORGE_NODE_ID": "first"})
    second = await start_node(extra=extra | {"FORGE_NODE_ID": "second"})

    assert (await first.announced())["why_not"] is None
    assert "(first) is the writer" in (await second.announced())["why_not"]
    asked = await second.cli("replicate", "generation")
    assert (asked.code, "this node is a standby" in asked.err) == (6, True), asked.out
