"""What the two clients of an S3 store send, and what they make of answers, of which many make no sense."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from blake3 import blake3

from events.objects.errors import (
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
)
from events.objects.s3 import PART_BYTES, S3Store
from events.objects.s3_account import Account
from events.objects.s3_clients import s3_clients
from tests.canned_s3 import BUCKET, KEYS, STORED, listing, lonely, refusal, store_at
from tests.faults.canned_server import PACE_BYTES, CannedServer, answer
from tests.waiting import until

ODD = "a b+c%20d~e*f'g\"h#i?j[k]l{m}n|o^p`q<r>s&t=u;v:w@x,y$z!(0)%2F"
FOREIGN_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "foreign",
    "AWS_SECRET_ACCESS_KEY": "foreign",
    "AWS_SESSION_TOKEN": "foreign",
    "AWS_REGION": "eu-west-3",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_UNSIGNED_PAYLOAD": "true",
    "AWS_SKIP_SIGNATURE": "true",
    "AWS_CHECKSUM_ALGORITHM": "CRC64NVME",
    "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
    "AWS_S3_EXPRESS": "true",
    "AWS_REQUEST_PAYER": "true",
    "AWS_PROXY_URL": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


Meaning = type[StoreError] | None
GONE = refusal("404 Not Found", "NoSuchKey")  # of a version that is to be replaced AWS says so too
ANSWERS: list[tuple[bytes, Meaning, Meaning, Meaning]] = [
    (GONE, ObjectMissing, StoreUnavailable, StoreUnavailable),
    (answer("404 Not Found", b"<html>"), ObjectMissing, StoreUnavailable, StoreUnavailable),
    (refusal("404 Not Found", "NoSuchBucket"), StoreRefused, StoreRefused, StoreRefused),
    (refusal("400 Bad Request", "InvalidBucketName"), StoreRefused, StoreRefused, StoreRefused),
    (refusal("403 Forbidden", "SignatureDoesNotMatch"), StoreRefused, StoreRefused, StoreRefused),
    (refusal("403 Forbidden", "AccessDenied"), StoreRefused, StoreRefused, StoreRefused),
    (answer("403 Forbidden"), StoreRefused, StoreRefused, StoreRefused),
    (refusal("301 Moved Permanently", "PermanentRedirect"), StoreRefused, StoreRefused, StoreRefused),
    (
        refusal("412 Precondition Failed", "PreconditionFailed"),
        StoreUnavailable,
        PreconditionFailed,
        StoreUnavailable,
    ),
    (answer("412 Precondition Failed"), StoreUnavailable, PreconditionFailed, StoreUnavailable),
    (refusal("409 Conflict", "ConditionalRequestConflict"), StoreUnavailable, PreconditionFailed, StoreUnavailable),
    (answer("304 Not Modified"), StoreUnavailable, StoreUnavailable, StoreUnavailable),
    (refusal("501 Not Implemented", "NotImplemented"), Unsupported, Unsupported, Unsupported),
    (refusal("400 Bad Request", "InvalidRequest"), Unsupported, Unsupported, Unsupported),
    (refusal("400 Bad Request", "BadDigest"), StoreUnavailable, StoreUnavailable, StoreUnavailable),
    (refusal("500 Internal Server Error", "InternalError"), StoreUnavailable, StoreUnavailable, StoreUnavailable),
    (refusal("503 Slow Down", "SlowDown"), StoreUnavailable, StoreUnavailable, StoreUnavailable),
    (answer("200 OK", b"x"), StoreError, StoreUnavailable, None),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nETag: x\r\n\r\ncut", StoreUnavailable, None, None),
    (b"garbage\r\n\r\n", StoreUnavailable, StoreUnavailable, StoreUnavailable),
    (b"", StoreUnavailable, StoreUnavailable, StoreUnavailable),
]
"""What is answered, and what that means for a GET, a PUT and a DELETE; None: it is believed."""


async def test_an_answer_means_what_it_says_and_is_asked_for_once() -> None:
    """PR3, PR7: an answer that makes no sense for its operation is none, and no client repeats by itself."""
    async with CannedServer() as server:
        store = store_at(server.url)
        for server.answer, get, put, delete in ANSWERS:
            server.targets.clear()
            calls: list[tuple[Meaning, Callable[[], Awaitable[object]]]] = [
                (get, lambda: store.get("k")),
                (get, lambda: store.get_range("k", 0, 9)),
                (put, lambda: store.create("k", b"1")),
                (PreconditionFailed if server.answer == GONE else put, lambda: store.swap("k", b"1", '"tag"')),
                (put, lambda: store.put("k", b"1")),
                (delete, lambda: store.delete("k")),
                (delete or StoreUnavailable, lambda: store.list("k")),
                (delete or StoreUnavailable, lambda: store.folders("k/")),
            ]
            for expected, call in calls:
                (outcome,) = await asyncio.gather(call(), return_exceptions=True)
                assert isinstance(outcome, expected) if expected else not isinstance(outcome, BaseException)
                assert expected in (StoreError, None) or type(outcome) is expected, server.answer
                assert "\n" not in str(outcome)
            assert len(server.targets) == len(calls), server.answer
        await store.close()


async def test_what_is_configured_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """PR6: nothing in the environment replaces it, and no body goes out that the server cannot check."""
    for name, value in FOREIGN_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    async with CannedServer(STORED) as server:
        store = store_at(server.url)

        assert await store.create("k", b"body") == '"tag"'
        server.answer = listing()
        assert await store.list("") == []

        head, _ = server.heads
        assert [target.partition("?")[0] for target in server.targets] == [f"PUT /{BUCKET}/k", f"GET /{BUCKET}"]
        for each in server.heads:
            assert "Credential=configured/" in each["authorization"]
            assert "/us-east-1/s3/" in each["authorization"]
            assert "x-amz-security-token" not in each
            assert "x-amz-request-payer" not in each
        assert head["if-none-match"] == "*"
        assert head["x-amz-content-sha256"] == hashlib.sha256(b"body").hexdigest()
        assert head["x-amz-checksum-sha256"] == b64encode(hashlib.sha256(b"body").digest()).decode()
        await store.close()


async def test_a_bucket_is_made_unless_it_is_there_or_cannot_be() -> None:
    """Another process may make it at the same time; and a server that says nothing is away."""
    some, none = (
        answer("200 OK", f"<ListAllMyBucketsResult><Buckets>{found}</Buckets></ListAllMyBucketsResult>".encode())
        for found in (f"<Bucket><Name>{BUCKET}</Name></Bucket>", "")
    )
    async with CannedServer() as server:
        store = store_at(server.url)
        taken, denied = refusal("409 Conflict", "BucketAlreadyOwnedByYou"), refusal("403 Forbidden", "AccessDenied")
        for server.answers in ([some], [none, answer("200 OK")], [none, taken, some]):
            await store.make_bucket()
            assert not server.answers
        server.answers = [none, denied, none]
        with pytest.raises(StoreRefused):
            await store.make_bucket()
        with pytest.raises(StoreUnavailable):
            await store.make_bucket()
        await store.close()


async def test_a_large_body_may_take_longer_than_an_answer() -> None:
    """PR7: a slow line is no server that hangs; what is small, as a lease, knows sooner."""
    async with CannedServer(STORED, pace_s=0.3) as server:
        account = Account(server.url, "us-east-1", KEYS, path_style=True, direct=True, read_timeout_s=2)
        store = S3Store(s3_clients(account, BUCKET), BUCKET)

        assert await store.put("k", bytes(16 * PACE_BYTES)) == '"tag"'
        await store.close()


async def test_a_cancelled_upload_in_parts_sends_no_more_of_them(tmp_path: Path) -> None:
    """PR7: a node that stops, or is the writer no longer, uploads nothing; and the store keeps no parts."""
    begun = b"<InitiateMultipartUploadResult><UploadId>one</UploadId></InitiateMultipartUploadResult>"
    data, path = bytes(6 * PART_BYTES), tmp_path / "large"
    path.write_bytes(data)
    async with CannedServer(STORED, pace_s=0.02) as server:
        server.answers = [answer("200 OK", begun)]
        store = store_at(server.url)
        storing = asyncio.create_task(store.create_file("k", path, blake3(data).hexdigest()))
        await until(lambda: len(server.targets) >= 2)
        storing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await storing
        await store.close()
        await until(lambda: server.targets[-1] == f"DELETE /{BUCKET}/k?uploadId=one")
    assert len([target for target in server.targets if "partNumber" in target]) < 6


async def test_without_keys_the_machine_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """As the AWS tools do it, of which a token is part; and that it has none is said."""
    home = tmp_path_factory.mktemp("home")
    lonely(monkeypatch, home)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    async with CannedServer(STORED) as server:
        store = store_at(server.url, {})
        for call in (store.put("k", b"1"), store.get("k"), store.list("")):
            with pytest.raises(StoreRefused, match="no keys of S3 are set"):
                await call
        await store.close()

        (home / ".aws").mkdir()
        (home / ".aws/credentials").write_text(
            "[default]\naws_access_key_id = of-file\naws_secret_access_key = s\naws_session_token = t\n"
        )
        store = store_at(server.url, {})
        await store.put("k", b"1")
        server.answer = listing()
        await store.list("")
        await store.close()

    assert len(server.heads) == 2
    for head in server.heads:
        assert "Credential=of-file/" in head["authorization"]
        assert head["x-amz-security-token"] == "t"


async def test_both_clients_mean_the_same_object_by_a_key() -> None:
    """What one of them has stored is what the other one lists."""
    async with CannedServer(STORED) as server:
        clients = s3_clients(Account(server.url, "us-east-1", KEYS, path_style=True, direct=True), BUCKET)
        store = S3Store(clients, BUCKET)
        await store.delete(ODD)
        await store._run(lambda: clients.boto3.client.delete_object(Bucket=BUCKET, Key=ODD))
        await store.close()

    assert len(server.targets) == 2
    assert len(set(server.targets)) == 1


AWS, OWN = "https://s3.eu-central-1.amazonaws.com", "https://s3.example.com:9000/base"
POINT = "arn:aws:s3:eu-west-1:123456789012:accesspoint/mine"


@pytest.mark.parametrize(
    ("url", "path_style", "bucket", "endpoint", "in_host"),
    [
        ("", False, "plain", "https://plain.s3.eu-central-1.amazonaws.com", True),
        ("", False, "with.dot", AWS, False),
        ("", True, "plain", AWS, False),
        (OWN, False, "plain", OWN, False),
        ("http://127.0.0.1:9000/", True, "plain", "http://127.0.0.1:9000", False),
        ("", False, POINT, "https://mine-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", True),
    ],
)
def test_the_bucket_is_where_boto3_looks_for_it(
    url: str, path_style: bool, bucket: str, endpoint: str, in_host: bool
) -> None:
    """In the name of the host on AWS, in the path elsewhere, unless the settings say otherwise."""
    clients = s3_clients(Account(url, "eu-central-1", KEYS, path_style=path_style), bucket)
    clients.close()

    config = clients.data.config
    assert config["endpoint"] == endpoint
    assert str(config["virtual_hosted_style_request"]) == str(in_host).lower()
    assert config["region"] == ("eu-west-1" if bucket == POINT else "eu-central-1")
    assert clients.lists.url == (f"{endpoint}/" if in_host else f"{endpoint}/{bucket}")


@pytest.mark.parametrize("path_style", [False, True])
@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", OWN, "https://a-b.example.com", "http://host:65535/base/"])
def test_where_boto3_is_not_asked_it_would_have_said_the_same(
    url: str, path_style: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing of it is loaded while an address and keys are given, and the machine says nothing to the AWS tools."""
    lonely(monkeypatch, tmp_path)
    clients = s3_clients(Account(url, "eu-central-1", KEYS, path_style=path_style), "a-bucket")

    assert not clients.boto3.loaded
    assert clients.boto3.place("a-bucket") == (clients.data.config["endpoint"], False)
    assert clients.boto3.ca_bundle() is None
    clients.close()


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [("AWS_PROFILE", "nobody", "profile"), ("AWS_RETRY_MODE", "none", "mode"), ("AWS_CONFIG_FILE", __file__, "parse")],
)
def test_what_boto3_will_refuse_one_day_it_refuses_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, why: str
) -> None:
    """Else a node would work until its first upload in parts."""
    lonely(monkeypatch, tmp_path)
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefused, match=f"these settings: .*{why}"):
        s3_clients(Account("http://127.0.0.1:9000", "us-east-1", KEYS, path_style=True), BUCKET)


@pytest.mark.parametrize(
    ("url", "region", "bucket", "why"),
    [
        ("http://127.0.0.1:9000", "not a region", BUCKET, "doesn't match a supported format"),
        ("http://127.0.0.1:9000", "us-east-1", "not a bucket", "Parameter validation"),
        ("http://127.0.0.1:65536", "us-east-1", BUCKET, "not a valid URI"),
        ("http://under_score:9000", "us-east-1", BUCKET, "Invalid endpoint"),
    ],
)
def test_settings_that_cannot_be_are_told_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, region: str, bucket: str, why: str
) -> None:
    lonely(monkeypatch, tmp_path)
    with pytest.raises(StoreRefused, match=f"these settings: .*{why}"):
        s3_clients(Account(url, region, KEYS, path_style=True), bucket)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("AWS_ACCESS_KEY_ID", "half", "Partial credentials"),
        ("AWS_PROFILE", "nobody", "profile"),
        ("AWS_CA_BUNDLE", "/none", "No such file"),
    ],
)
def test_what_the_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch, name: str, value: str, why: str) -> None:
    """Before anything is asked, and as what no repetition mends."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreRefused, match=f"these settings: .*{why}"):
        s3_clients(Account("", "us-east-1", KEYS if name == "AWS_CA_BUNDLE" else {}, path_style=False), BUCKET)
