"""Where a bucket of S3 is, who we are there, and how patient all its clients are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

CONNECTIONS = 16  # of each client
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 10.0  # until an answer begins, and between two pieces of it


@dataclass(frozen=True, slots=True)
class Account:
    """Where an S3 server is, and who we are there.

    Without `credentials` (both keys and perhaps a token, named as boto3 names them) those of the machine are found as
    the AWS tools find them; without `endpoint_url` it is AWS. `direct` passes by the proxies of the environment.
    """

    endpoint_url: str
    region: str
    credentials: Mapping[str, str] = field(repr=False)
    path_style: bool
    direct: bool = False
    read_timeout_s: float = READ_TIMEOUT_S


class Place(NamedTuple):
    """Where a bucket is looked for, and whether the name of the host alone tells it."""

    endpoint: str
    in_host: bool

    def url(self, bucket: str) -> str:
        """Return the address of the bucket."""
        return f"{self.endpoint}/" if self.in_host else f"{self.endpoint}/{bucket}"
