"""The configuration of nats-server, one text for the embedded server and for the cluster of compose.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MAX_PAYLOAD = "8MB"
CLUSTER_FILE_STORE_BYTES = 64 << 30

# The account holds Forge's streams and nothing else, hence `*` for the stream; what counts is that only
# `log` appends, only `admin` shapes and purges streams, nobody deletes, nobody hears the log or another
# user's inbox: whoever hears an append can answer it in the server's place.
_READ = (
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.DIRECT.GET.*",
    "$JS.API.DIRECT.GET.*.>",
)


@dataclass(frozen=True, slots=True)
class User:
    """A NATS user and all that it may do."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


USERS = (
    User(
        "admin",
        publish=(
            "$JS.API.INFO",
            "$JS.API.STREAM.CREATE.*",
            "$JS.API.STREAM.UPDATE.*",
            "$JS.API.STREAM.INFO.*",
            "$JS.API.STREAM.NAMES",
            "$JS.API.STREAM.LIST",
            "$JS.API.STREAM.PURGE.*",
        ),
        subscribe=("_INBOX_admin.>",),
    ),
    User("log", publish=("forge.log.>", "forge.live.>", *_READ), subscribe=("_INBOX_log.>",)),
    User("read", publish=_READ, subscribe=("_INBOX_read.>", "forge.live.>")),
    User(
        "live",
        publish=("forge.live.>", "forge.cmd.>", "_INBOX_live.>", "_INBOX_client.>"),
        subscribe=("forge.live.>", "forge.cmd.>", "_INBOX_live.>"),
    ),
    User("client", publish=("forge.cmd.>",), subscribe=("_INBOX_client.>",)),
)


def embedded_conf(
    *,
    port: int,
    monitor_port: int,
    store: Path,
    passwords: Mapping[str, str],
    file_store_bytes: int,
    sync_always: bool = True,
) -> str:
    """Return the configuration of the node's own server, on loopback."""
    return "\n".join(
        (
            'server_name: "forge-embedded"',
            f'listen: "127.0.0.1:{port}"',
            f'http: "127.0.0.1:{monitor_port}"',
            _common(),
            _jetstream(f'"{store}"', file_store_bytes, sync_always),
            _authorization({name: f'"{password}"' for name, password in passwords.items()}),
        )
    )


def cluster_conf() -> str:
    """Return the configuration that each of the three servers of compose.yaml reads."""
    return "\n".join(
        (
            "# Written by `python -m forge.stack.nats_config`; a test compares it with the embedded server's.",
            "# $NAMES come from the environment of the container.",
            "server_name: $NATS_SERVER_NAME",
            'listen: "0.0.0.0:4222"',
            "# Monitoring has no login: reachable inside the compose network, never published.",
            'http: "0.0.0.0:8222"',
            _common(),
            _jetstream('"/data"', CLUSTER_FILE_STORE_BYTES, sync_always=True),
            _authorization({user.name: f"$FORGE_NATS_{user.name.upper()}_PASSWORD" for user in USERS}),
            "cluster {",
            '  name: "forge"',
            '  listen: "0.0.0.0:6222"',
            "  # Clients use the one name that all servers answer to. An address learned from a server would come",
            "  # without user and password, and nats-py would try to log in without them.",
            "  no_advertise: true",
            "  authorization { user: route, password: $FORGE_NATS_ROUTE_PASSWORD, timeout: 10 }",
            "  routes: [",
            *(f"    $FORGE_NATS_ROUTE_{n}" for n in (1, 2, 3)),
            "  ]",
            "}",
            "",
        )
    )


def _common() -> str:
    return f"""\
# Headers count towards max_payload; a client that exceeds it is disconnected.
max_payload: {MAX_PAYLOAD}
max_control_line: 4KB
max_connections: 1024
write_deadline: "10s"
ping_interval: "20s"
ping_max: 2"""


def _jetstream(store: str, file_store_bytes: int, sync_always: bool) -> str:
    return f"""\
jetstream {{
  store_dir: {store}
  # Acknowledge after fsync. The default acknowledges at once and syncs every two minutes: a power cut
  # then loses everything acknowledged since, on three servers that lose power together as on one.
  sync_interval: {"always" if sync_always else '"2m"'}
  # Explicit, because the default is a share of the disk space that happens to be free at start.
  max_file_store: {file_store_bytes}
  max_memory_store: 64MB
  # Refuse API requests with fields this server does not know, instead of ignoring them.
  strict: true
}}"""


def _authorization(passwords: Mapping[str, str]) -> str:
    """`passwords` are as written in the file: quoted, or the name of an environment variable."""
    users = "\n".join(_user(user, passwords[user.name]) for user in USERS)
    return f"authorization {{\n  timeout: 10\n  users: [\n{users}\n  ]\n}}"


def _user(user: User, password: str) -> str:
    return f"""\
    {{
      user: {user.name}, password: {password}
      permissions: {{
        publish: {{ allow: [{_list(user.publish)}] }}
        subscribe: {{ allow: [{_list(user.subscribe)}] }}
      }}
    }}"""


def _list(subjects: tuple[str, ...]) -> str:
    return ", ".join(f'"{subject}"' for subject in subjects)


if __name__ == "__main__":
    print(cluster_conf(), end="")
