"""An object store on S3, by boto3 in threads: conditional writes, checksums on both sides, no retries of its own."""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import boto3  # type: ignore[import-untyped]
from blake3 import blake3
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError  # type: ignore[import-untyped]

from events.objects.errors import (
    CorruptObject,
    ObjectMissing,
    PreconditionFailed,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Unsupported,
)
from events.objects.port import LIST_MAX, Folders, Listed, Object, check_key, checksum

THREADS = 16
CONNECT_TIMEOUT_S = 5
READ_TIMEOUT_S = 10
PART_BYTES = 8 << 20  # of an upload in parts; a smaller file is sent whole
PARTS_AT_MOST = 9_000  # the bound of S3 is 10,000
CHECKSUM = "blake3"  # name of the metadata
_REFUSED = frozenset(
    {
        "NoSuchBucket",
        "InvalidBucketName",
        "PermanentRedirect",
        "AccessDenied",
        "403",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "AuthorizationHeaderMalformed",
        "InvalidToken",
        "ExpiredToken",
        "RequestTimeTooSkewed",
    }
)
_UNSUPPORTED = frozenset({"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest", "501", "405"})
_MISSING = frozenset({"NoSuchKey", "404"})
_READS = frozenset({"GetObject", "HeadObject"})
_CONDITIONAL = frozenset({"PutObject", "CompleteMultipartUpload"})
_PRECONDITION = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "OperationAborted", "409"})
"""Somebody else was faster, or is at it: 409 is said while another conditional write of the key is under way."""
_OF_THE_NETWORK = (BotoCoreError, ConnectionError, TimeoutError)
"""A timeout of botocore is an OSError too."""


CLIENT_OPTIONS: Mapping[str, Any] = {
    "retries": {"total_max_attempts": 1},
    "connect_timeout": CONNECT_TIMEOUT_S,
    "read_timeout": READ_TIMEOUT_S,
    "max_pool_connections": THREADS,
}
"""Options of botocore's Config for a client of `S3Store`."""


def s3_client(
    endpoint_url: str, region: str, credentials: Mapping[str, str], *, path_style: bool, **config_options: Any
) -> Any:
    """Return a boto3 client; without `credentials` the machine's own are found as the AWS tools find them."""
    style = {"addressing_style": "path" if path_style else "auto"}
    config = Config(s3=style, **CLIENT_OPTIONS, **config_options)
    return boto3.client("s3", endpoint_url=endpoint_url or None, region_name=region, config=config, **credentials)


class S3Store:
    """Objects of one bucket. Closes `client` with itself."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket
        self._threads = ThreadPoolExecutor(THREADS, "s3")

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._put(key, data, IfNoneMatch="*")

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await self._put(key, data, IfMatch=tag)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await self._put(key, data)

    async def _put(self, key: str, data: bytes, **condition: str) -> str:
        arguments: dict[str, Any] = {"Key": check_key(key), "Body": data, **_sums(data), **condition}
        answer = await self._call(self._client.put_object, Metadata={CHECKSUM: checksum(data)}, **arguments)
        return str(answer["ETag"])

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        check_key(key)
        await self._run(partial(self._create_file, key, path, digest))

    def _create_file(self, key: str, path: Path, digest: str) -> None:
        with open(path, "rb") as file:
            first = file.read(PART_BYTES)
            if len(first) == PART_BYTES:
                return self._create_in_parts(
                    key, file, first, digest, max(PART_BYTES, path.stat().st_size // PARTS_AT_MOST)
                )
        _check_file(path, checksum(first), digest)
        self._client.put_object(
            Bucket=self._bucket, Key=key, Body=first, Metadata={CHECKSUM: digest}, IfNoneMatch="*", **_sums(first)
        )

    def _create_in_parts(self, key: str, file: BinaryIO, data: bytes, digest: str, part_bytes: int) -> None:
        where = {"Bucket": self._bucket, "Key": key}
        where["UploadId"] = self._client.create_multipart_upload(**where, Metadata={CHECKSUM: digest})["UploadId"]
        hasher = blake3()
        parts: list[dict[str, Any]] = []
        try:
            while data:
                hasher.update(data)
                number = len(parts) + 1
                sent = self._client.upload_part(**where, PartNumber=number, Body=data, **_sums(data))
                parts.append({"ETag": sent["ETag"], "PartNumber": number})
                data = file.read(part_bytes)
            _check_file(Path(file.name), hasher.hexdigest(), digest)
            self._client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with suppress(ClientError, BotoCoreError):  # else the store keeps the parts, and asks money for them
                self._client.abort_multipart_upload(**where)
            raise

    async def get(self, key: str) -> Object:
        """Return an object."""
        answer, data = await self._read(key)
        if checksum(data) != answer["Metadata"].get(CHECKSUM):
            raise CorruptObject(f"{key} is not what was stored: its checksum does not match, or it has none")
        return Object(data, str(answer["ETag"]))

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        if length <= 0:
            return b""
        try:
            return (await self._read(key, Range=f"bytes={start}-{start + length - 1}"))[1]
        except _InvalidRange:
            return b""

    async def _read(self, key: str, **options: str) -> tuple[Any, bytes]:
        check_key(key)

        def read() -> tuple[Any, bytes]:
            answer = self._client.get_object(Bucket=self._bucket, Key=key, **options)
            with answer["Body"] as body:
                return answer, body.read()

        answer, data = await self._run(read)
        if len(data) != answer["ContentLength"]:
            raise StoreUnavailable(f"{key} was cut off after {len(data)} bytes")
        return answer, data

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        try:
            return int((await self._call(self._client.head_object, Key=check_key(key)))["ContentLength"])
        except ObjectMissing:
            return None

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        options = {"StartAfter": after} if after else {}
        answer = await self._call(
            self._client.list_objects_v2, Prefix=prefix, MaxKeys=min(limit, LIST_MAX), EncodingType="url", **options
        )
        return [Listed(found["Key"], found["Size"]) for found in answer.get("Contents", ())]

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        options = {"ContinuationToken": after} if after else {}  # by name they are in no order that servers agree on
        answer = await self._call(
            self._client.list_objects_v2, Prefix=prefix, Delimiter="/", MaxKeys=min(limit, LIST_MAX), **options
        )
        names = [found["Prefix"].removeprefix(prefix).rstrip("/") for found in answer.get("CommonPrefixes", ())]
        return Folders(names, answer.get("NextContinuationToken", "") if answer["IsTruncated"] else "")

    async def delete(self, key: str) -> None:
        """Remove an object."""
        await self._call(self._client.delete_object, Key=check_key(key))

    async def close(self) -> None:
        """Let go of connections and threads; calls under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._client.close)

    async def _call(self, operation: Callable[..., Any], **arguments: Any) -> Any:
        return await self._run(partial(operation, Bucket=self._bucket, **arguments))

    async def _run(self, work: Callable[[], Any]) -> Any:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except ClientError as error:
            raise _translated(error) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            raise StoreRefused(f"no keys of S3 are set: {error}") from error
        except Exception as error:
            if isinstance(error, StoreError) or (isinstance(error, OSError) and not isinstance(error, _OF_THE_NETWORK)):
                raise  # OSError: of a file here
            # botocore raises all sorts of things at answers that are none, AttributeError too
            raise StoreUnavailable(f"S3 does not answer: {error}") from error


class _InvalidRange(StoreError):
    """The range begins behind the object's end."""


def _sums(data: bytes) -> dict[str, str]:
    """Return what the server checks the bytes by as they arrive."""
    return {"ContentMD5": b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


def _check_file(path: Path, found: str, digest: str) -> None:
    if found != digest:
        raise CorruptObject(f"{path} does not hold {digest}")


def _translated(error: Any) -> StoreError:
    """Return what an error means; one that makes no sense for its operation is as good as no answer."""
    code = error.response.get("Error", {}).get("Code", "")
    what = f"{error.operation_name}: {error}"
    if code in _MISSING and error.operation_name in _READS:
        return ObjectMissing(what)
    if code in _PRECONDITION and error.operation_name in _CONDITIONAL:
        return PreconditionFailed(what)
    if code == "InvalidRange":
        return _InvalidRange(what)
    if code in _UNSUPPORTED:
        return Unsupported(what)
    return StoreRefused(what) if code in _REFUSED else StoreUnavailable(what)
