"""`forge config show`: every setting with its source, no secret, also when values are invalid."""

import json
from typing import Any

import pytest
from click.testing import CliRunner

from forge.cli import main
from forge.cli.config import settings_page
from schemas.settings import Settings


def shown(environ: dict[str, str], *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*options, "config", "show", "--json"], env=environ)
    assert result.exit_code == 0, result.stderr
    said: dict[str, Any] = json.loads(result.stdout)
    return said | {line["variable"]: line for line in said["settings"]}


def test_every_setting_is_shown() -> None:
    assert [line["name"] for line in shown({})["settings"]] == list(Settings.model_fields)


def test_the_source_is_the_name_that_was_read() -> None:
    said = shown({"WORKER_CONCURRENCY": "7", "FORGE_LISTEN": "127.0.0.1:0"}, "--data-dir", "/d")
    assert said["FORGE_VECTOR_WORKER_CONCURRENCY"]["source"] == "WORKER_CONCURRENCY"
    assert said["FORGE_VECTOR_WORKER_CONCURRENCY"]["value"] == "7"
    assert said["FORGE_LISTEN"]["source"] == "FORGE_LISTEN"
    assert said["FORGE_DATA_DIR"] | {"name": ""} == {
        "name": "",
        "variable": "FORGE_DATA_DIR",
        "value": "/d",
        "source": "--data-dir",
        "problem": "",
    }
    assert said["FORGE_PATH_VECTOR_QUEUE_DB"]["value"] == "/d/vector/queue.db"
    assert said["FORGE_PATH_VECTOR_QUEUE_DB"]["source"] == "default"


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_is_shown(as_json: bool) -> None:
    """PR6: neither tokens nor passwords, in settings, addresses, problems or notes."""
    secret = "hunter2"
    environ = {
        "FORGE_TOKEN": secret,
        "FORGE_NATS_URL": f"nats://log:{secret}@h:1",
        "FORGE_NATS_MONITOR_URL": f"http://a:{secret}@h:2",
        "FORGE_VECTOR_WORKER_URL": f"http://a:{secret}@h:3",
        "FORGE_TOKENS": secret,
        "FORGE_LISTEN": f"http://x:{secret}@h",
    }
    result = CliRunner().invoke(main, ["config", "show", *(["--json"] if as_json else [])], env=environ)
    assert result.exit_code == 0
    assert secret not in result.output
    assert "nats://***@h:1" in result.output


def test_invalid_values_are_shown_with_their_problem() -> None:
    """Spec 2.7: showing the configuration succeeds however bad it is."""
    said = shown({"MAX_JOB_ATTEMPTS": "0", "FORGE_LOG_FORMAT": "xml", "FORGE_VECTOR_LOOKUP_CHUNK_SIZE": "9"})
    assert said["FORGE_VECTOR_MAX_JOB_ATTEMPTS"]["value"] == "0"
    assert "must be > 0" in said["FORGE_VECTOR_MAX_JOB_ATTEMPTS"]["problem"]
    assert "FORGE_LOG_FORMAT" in said["FORGE_LOG_FORMAT"]["problem"]
    assert said["FORGE_VECTOR_LOOKUP_CHUNK_SIZE"]["value"] == "9"
    assert len(said["problems"]) == 2


def test_a_misspelt_variable_is_noticed() -> None:
    assert shown({"FORGE_DATADIR": "/x"})["notes"] == ["FORGE_DATADIR is not a setting; did you mean FORGE_DATA_DIR?"]


def test_people_get_a_table_with_problems_below() -> None:
    result = CliRunner().invoke(main, ["config", "show"], env={"MAX_JOB_ATTEMPTS": "0"})
    assert result.stdout.splitlines()[0].split() == ["SETTING", "VALUE", "FROM"]
    assert "problem: MAX_JOB_ATTEMPTS must be > 0 (it is '0')" in result.stdout


def test_a_default_that_depends_on_others_says_how() -> None:
    assert "| `.` |" not in settings_page()
