"""Listings of a bucket of S3, by requests that are signed here: boto3 takes 20 MiB for them, obstore has no pages."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote_plus, urlencode
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, ParseError

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session

from events.objects.errors import StoreUnavailable
from events.objects.port import Listed
from events.objects.s3_errors import of_answer

OPERATION = "ListObjectsV2"


class Keys(NamedTuple):
    """What requests are signed with; the names are those of botocore."""

    access_key: str
    secret_key: str
    token: str | None


class Page(NamedTuple):
    """Some of a listing: objects, and what they have in common up to the delimiter; `next` is empty at the end."""

    objects: Sequence[Listed]
    prefixes: Sequence[str]
    next: str


class Lists:
    """Pages of one bucket, whose address is `url`. Calls block, and may be made by many threads."""

    def __init__(self, url: str, region: str, keys: Callable[[], Keys], http: URLLib3Session) -> None:
        self.url = url
        self._region = region
        self._keys = keys
        self._http = http

    def page(self, prefix: str, limit: int, **options: str) -> Page:
        """Return a page of at most `limit`; `options` are named as S3 names them, with `_` for `-`."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": prefix, "max-keys": str(limit)}
        query |= {name.replace("_", "-"): value for name, value in options.items()}
        request = AWSRequest("GET", f"{self.url}?{urlencode(query, quote_via=quote, safe='')}")
        S3SigV4Auth(self._keys(), "s3", self._region).add_auth(request)
        answer = self._http.send(request.prepare())
        if answer.status_code != 200:
            raise of_answer(OPERATION, prefix, answer.status_code, answer.content.decode(errors="replace"))
        return _parsed(answer.content, prefix)

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()


def _parsed(body: bytes, prefix: str) -> Page:
    """Return what a body says; raise `StoreUnavailable` for one that is no listing, or not all of it."""
    try:
        root = ElementTree.fromstring(body)
    except ParseError as error:
        raise StoreUnavailable(f"S3 does not answer: the listing of {prefix} is no XML: {error}") from error
    if root.tag.rpartition("}")[2] != "ListBucketResult":
        raise StoreUnavailable(f"S3 does not answer: the listing of {prefix} is none: {root.tag[:80]}")
    decoded = unquote_plus if root.findtext("{*}EncodingType") == "url" else str
    objects = [Listed(decoded(_text(found, "Key")), int(_text(found, "Size"))) for found in _all(root, "Contents")]
    prefixes = [decoded(_text(found, "Prefix")) for found in _all(root, "CommonPrefixes")]
    following = ""
    if root.findtext("{*}IsTruncated") == "true" and not (following := root.findtext("{*}NextContinuationToken", "")):
        raise StoreUnavailable(f"S3 says that {prefix} holds more, and not where its list goes on")
    return Page(objects, prefixes, following)


def _all(element: Element, name: str) -> Iterator[Element]:
    return element.iterfind(f"{{*}}{name}")  # in whatever namespace: servers leave it out


def _text(element: Element, name: str) -> str:
    if not (text := element.findtext(f"{{*}}{name}")):
        raise StoreUnavailable(f"S3 does not answer: a listing lacks a {name}")
    return text
