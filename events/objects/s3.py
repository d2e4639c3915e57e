"""An object store on S3: bytes by obstore; lists, and by boto3 uploads in parts, in threads; no retries of its own."""

import asyncio
import hashlib
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import obstore
from blake3 import blake3
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from events.objects.errors import CorruptObject, ObjectMissing, StoreError, StoreUnavailable
from events.objects.port import LIST_MAX, Folders, Listed, Object, check_key, checksum
from events.objects.s3_account import CONNECTIONS
from events.objects.s3_clients import BULK_BYTES, Clients
from events.objects.s3_errors import SWAP, InvalidRange, of_boto3, of_obstore
from events.objects.s3_lists import Page

if TYPE_CHECKING:  # it has these types only there
    from obstore import Attributes, ObjectMeta, PutMode

PART_BYTES = 8 << 20  # of an upload in parts; a smaller file is sent whole
PARTS_AT_MOST = 9_000  # the bound of S3 is 10,000
CHECKSUM = "blake3"  # name of the metadata
_SAID = (ClientError, NoCredentialsError, PartialCredentialsError)
_OF_THE_NETWORK = (BotoCoreError, ConnectionError, TimeoutError)
"""A timeout of botocore is an OSError too."""

Result = TypeVar("Result")


class S3Store:
    """Objects of one bucket. Closes `clients` with itself."""

    def __init__(self, clients: Clients, bucket: str) -> None:
        self._data, self._bulk = clients.data, clients.bulk
        self._free = asyncio.Semaphore(CONNECTIONS)  # of both together
        self._clients = clients
        self._bucket = bucket
        self._threads = ThreadPoolExecutor(CONNECTIONS, "s3")  # of lists, and of boto3, which is loaded in them

    async def make_bucket(self) -> None:
        """Make the bucket unless it is there; another process may be faster."""
        if await self._has_bucket():
            return
        try:
            await self._run(lambda: self._clients.boto3.client.create_bucket(Bucket=self._bucket))
        except StoreError:
            if not await self._has_bucket():
                raise

    async def _has_bucket(self) -> bool:
        answer = await self._run(lambda: self._clients.boto3.client.list_buckets())
        return self._bucket in [bucket["Name"] for bucket in answer["Buckets"]]

    async def create(self, key: str, data: bytes) -> str:
        """Store a new object."""
        return await self._put(key, data, "create")

    async def swap(self, key: str, data: bytes, tag: str) -> str:
        """Replace one version of an object."""
        return await self._put(key, data, {"e_tag": tag}, operation=SWAP)

    async def put(self, key: str, data: bytes) -> str:
        """Store an object whatever is there."""
        return await self._put(key, data, "overwrite")

    async def _put(self, key: str, data: bytes, mode: "PutMode", digest: str = "", operation: str = "PutObject") -> str:
        check_key(key)
        attributes = {CHECKSUM: digest or checksum(data)}
        client = self._bulk if len(data) > BULK_BYTES else self._data
        answer = await self._ask(
            operation,
            key,
            lambda: obstore.put_async(client, key, data, mode=mode, attributes=attributes, use_multipart=False),
        )
        if not answer["e_tag"]:
            raise StoreUnavailable(f"S3 stored {key}, and did not say as which version")
        return answer["e_tag"]

    async def create_file(self, key: str, path: Path, digest: str) -> None:
        """Store a file as a new object."""
        check_key(key)
        if (await self._run(path.stat)).st_size >= PART_BYTES:
            stopping = Event()
            try:
                await self._run(partial(self._create_in_parts, key, path, digest, stopping))
            finally:
                stopping.set()  # a thread cannot be cancelled: it would send one part after the other
        else:
            await self._put(key, await self._run(partial(_read_file, path, digest)), "create", digest)

    def _create_in_parts(self, key: str, path: Path, digest: str, stopping: Event) -> None:
        client, where = self._clients.boto3.client, {"Bucket": self._bucket, "Key": key}
        where["UploadId"] = client.create_multipart_upload(**where, Metadata={CHECKSUM: digest})["UploadId"]
        try:
            with open(path, "rb") as file:
                parts = self._upload_parts(where, file, digest, stopping)
            client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts}, IfNoneMatch="*")
        except BaseException:
            with suppress(ClientError, BotoCoreError):  # else the store keeps the parts, and asks money for them
                client.abort_multipart_upload(**where)
            raise

    def _upload_parts(
        self, where: Mapping[str, str], file: BinaryIO, digest: str, stopping: Event
    ) -> Sequence[Mapping[str, Any]]:
        part_bytes = max(PART_BYTES, os.fstat(file.fileno()).st_size // PARTS_AT_MOST)
        hasher = blake3()
        parts: list[Mapping[str, Any]] = []
        while data := file.read(part_bytes):
            if stopping.is_set():
                raise StoreUnavailable(f"nobody waits for {where['Key']} any more")
            hasher.update(data)
            number = len(parts) + 1
            sent = self._clients.boto3.client.upload_part(**where, PartNumber=number, Body=data, **_sums(data))
            parts.append({"ETag": sent["ETag"], "PartNumber": number})
        _check_file(Path(file.name), hasher.hexdigest(), digest)
        return parts

    async def get(self, key: str) -> Object:
        """Return an object."""
        check_key(key)

        async def read() -> "tuple[ObjectMeta, Attributes, bytes]":
            answer = await obstore.get_async(self._data, key)
            return answer.meta, answer.attributes, (await answer.bytes_async()).to_bytes()

        meta, attributes, data = await self._ask("GetObject", key, read)
        if len(data) != meta["size"]:
            raise StoreUnavailable(f"{key} was cut off after {len(data)} bytes")
        if checksum(data) != attributes.get(CHECKSUM):
            raise CorruptObject(f"{key} is not what was stored: its checksum does not match, or it has none")
        return Object(data, meta["e_tag"] or "")

    async def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return some of an object's bytes."""
        check_key(key)
        if length <= 0:
            return b""
        read = partial(obstore.get_range_async, self._data, key, start=start, length=length)
        try:
            return (await self._ask("GetObject", key, read)).to_bytes()
        except InvalidRange:
            return b""

    async def size(self, key: str) -> int | None:
        """Return the size of an object."""
        check_key(key)
        try:
            return (await self._ask("HeadObject", key, partial(obstore.head_async, self._data, key)))["size"]
        except ObjectMissing:
            return None

    async def list(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Sequence[Listed]:
        """Return one page of keys."""
        options = {"start_after": after} if after else {}
        found: list[Listed] = []
        while (missing := min(limit, LIST_MAX) - len(found)) > 0:  # a server may give fewer although there are more
            page = await self._page(prefix, missing, **options)
            found += page.objects
            if not page.next:
                break
            options = {"continuation_token": page.next}
        return found

    async def folders(self, prefix: str, *, after: str = "", limit: int = LIST_MAX) -> Folders:
        """Return one page of folders."""
        options = {"continuation_token": after} if after else {}  # by name they are in no order that servers agree on
        page = await self._page(prefix, min(limit, LIST_MAX), delimiter="/", **options)
        return Folders([name.removeprefix(prefix).rstrip("/") for name in page.prefixes], page.next)

    async def _page(self, prefix: str, limit: int, **options: str) -> Page:
        return await self._run(partial(self._clients.lists.page, prefix, limit, **options))

    async def delete(self, key: str) -> None:
        """Remove an object."""
        check_key(key)
        await self._ask("DeleteObject", key, partial(obstore.delete_async, self._data, key))

    async def close(self) -> None:
        """Let go of connections and threads; calls under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._clients.close)

    async def _ask(self, operation: str, key: str, call: Callable[[], Awaitable[Result]]) -> Result:
        """Return what obstore answers."""
        async with self._free:
            try:
                return await call()
            except Exception as error:  # of its Rust code there are panics too
                raise of_obstore(operation, key, error) from error

    async def _run(self, work: Callable[[], Result]) -> Result:
        """Return what is answered in a thread, or what a file here holds."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except _SAID as error:
            raise of_boto3(error) from error
        except Exception as error:
            if isinstance(error, StoreError) or (isinstance(error, OSError) and not isinstance(error, _OF_THE_NETWORK)):
                raise  # OSError: of a file here
            # botocore raises all sorts of things at answers that are none, AttributeError too
            raise StoreUnavailable(f"S3 does not answer: {error}") from error


def _read_file(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    _check_file(path, checksum(data), digest)
    return data


def _sums(data: bytes) -> Mapping[str, str]:
    """Return what the server checks a part by as it arrives."""
    return {"ContentMD5": b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


def _check_file(path: Path, found: str, digest: str) -> None:
    if found != digest:
        raise CorruptObject(f"{path} does not hold {digest}")
