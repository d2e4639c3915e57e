"""What an S3 store makes of listings, and of what is none: what is missing in one would be taken for removed."""

from urllib.parse import parse_qsl, urlsplit

import pytest

from events.objects.errors import StoreUnavailable
from tests.canned_s3 import listing, store_at
from tests.faults.canned_server import CannedServer, answer


async def test_a_page_that_is_not_full_is_not_the_last_one_if_the_server_says_so() -> None:
    """PR3: servers may give fewer keys than they were asked for; and leave out what is false."""
    async with CannedServer() as server:
        store = store_at(server.url)
        server.answers = [listing("a", "b", more="on"), listing(more="still"), listing("c", more="on"), listing("d")]
        assert [found.key for found in await store.list("", after="0", limit=9)] == ["a", "b", "c", "d"]
        asked = [dict(parse_qsl(urlsplit(target).query)) for target in server.targets]
        assert [one.get("start-after", one.get("continuation-token")) for one in asked] == ["0", "on", "still", "on"]
        assert [one["max-keys"] for one in asked] == ["9", "7", "7", "6"]

        server.answers = [listing("a", "b", more="on")]
        assert [found.key for found in await store.list("", limit=2)] == ["a", "b"]

        server.answers = [listing(folders=["a"], more="on"), listing(folders=["b"])]
        assert [await store.folders(""), await store.folders("", after="on")] == [(["a"], "on"), (["b"], "")]
        await store.close()


async def test_a_listing_that_does_not_say_where_it_goes_on_is_none() -> None:
    """PR3: what is missing in it would be taken for removed."""
    async with CannedServer(listing("a", more=None)) as server:
        store = store_at(server.url)
        for call in (store.list(""), store.folders("")):
            with pytest.raises(StoreUnavailable, match="not where its list goes on"):
                await call
        await store.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html></html>",
        b"<Error><Code>InternalError</Code></Error>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents>",
        b"<ListBucketResult><Contents><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>a</Key><Size>some</Size></Contents></ListBucketResult>",
    ],
)
async def test_a_listing_that_is_none_or_not_all_of_it_is_no_empty_one(body: bytes) -> None:
    """PR3: else a proxy that says that all is well would have emptied the archive."""
    async with CannedServer(answer("200 OK", body)) as server:
        store = store_at(server.url)
        with pytest.raises(StoreUnavailable, match="S3 does not answer"):
            await store.list("")
        await store.close()


async def test_names_come_as_they_are_from_servers_that_encode_them_and_from_others() -> None:
    """AWS does as it is asked to; the name space is that of AWS, of which others know nothing."""
    plain = "<Contents><Key>a%2Bb+c&amp;d</Key><Size>1</Size></Contents>"
    encoded = f"<EncodingType>url</EncodingType>{plain}<CommonPrefixes><Prefix>a%20b%2F</Prefix></CommonPrefixes>"
    name_space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    async with CannedServer() as server:
        store = store_at(server.url)
        server.answers = [
            answer("200 OK", f"<ListBucketResult {name_space}>{encoded}</ListBucketResult>".encode()),
            answer("200 OK", f"<ListBucketResult {name_space}>{encoded}</ListBucketResult>".encode()),
            answer("200 OK", f"<ListBucketResult>{plain}</ListBucketResult>".encode()),
        ]
        assert [found.key for found in await store.list("")] == ["a+b c&d"]
        assert (await store.folders("")).names == ["a b"]
        assert [found.key for found in await store.list("")] == ["a%2Bb+c&d"]
        await store.close()
