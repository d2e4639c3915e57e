"""What a server of S3 answers, told by hand, and a store that asks one."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from events.objects.s3 import S3Store
from events.objects.s3_account import Account
from events.objects.s3_clients import s3_clients
from tests.faults.canned_server import answer

BUCKET = "bucket"
KEYS = {"aws_access_key_id": "configured", "aws_secret_access_key": "secret"}
STORED = answer("200 OK", ETag='"tag"')


def store_at(url: str, keys: dict[str, str] = KEYS) -> S3Store:
    """Return a store at an address; the caller closes it."""
    account = Account(url, "us-east-1", keys, path_style=True, direct=True, read_timeout_s=60)
    return S3Store(s3_clients(account, BUCKET), BUCKET)


def refusal(status: str, code: str) -> bytes:
    """Return an answer that says why not."""
    return answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>why</Message></Error>".encode())


def listing(*keys: str, folders: Sequence[str] = (), more: str | None = "") -> bytes:
    """Return a page of a listing, with the token of the next one in `more`; None: it only says that there is one."""
    found = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    found += "".join(f"<CommonPrefixes><Prefix>{name}/</Prefix></CommonPrefixes>" for name in folders)
    found += "" if more == "" else "<IsTruncated>true</IsTruncated>"
    found += f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return answer("200 OK", f"<?xml version='1.0'?><ListBucketResult>{found}</ListBucketResult>".encode())


def lonely(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Have the machine say nothing to the AWS tools."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
