"""Settings: names, older names, defaults, problems, and their page in the documentation."""

from pathlib import Path

import pytest
from pydantic import SecretStr

from forge.cli.config import settings_page
from schemas.node_settings import node_segment
from schemas.replication_settings import ReplicationSettings
from schemas.settings import InvalidSettings, Settings

ROOT = Path(__file__).resolve().parents[2]
OLDER_NAMES = [(names[0], older) for f in Settings.model_fields if (names := Settings.names(f)) for older in names[1:]]
LIMITS = [
    "FORGE_VECTOR_WORKER_CONCURRENCY",
    "FORGE_VECTOR_LOOKUP_CHUNK_SIZE",
    "FORGE_VECTOR_QUEUE_ACK_TIMEOUT_MS",
    "FORGE_VECTOR_MAX_PENDING_JOBS",
    "FORGE_VECTOR_MAX_JOB_ATTEMPTS",
]


def field_of(name: str) -> str:
    return next(field for field in Settings.model_fields if name in Settings.names(field))


def test_an_empty_environment_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PR8: no configuration is needed."""
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.data_dir == tmp_path / "forge-data"
    assert settings.cache_dir == tmp_path / "forge-cache"
    assert settings.vector_queue_db == tmp_path / "forge-data" / "vector" / "queue.db"
    assert settings.node_id


@pytest.mark.parametrize(
    ("environ", "data_dir"),
    [
        ({"HOME": "/home/a"}, "/home/a/.local/share/forge"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "/x"}, "/x/forge"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": " ", "FORGE_DATA_DIR": " "}, "/home/a/.local/share/forge"),
        ({"HOME": "/home/a", "XDG_DATA_HOME": "/x", "FORGE_DATA_DIR": " /d "}, "/d"),
    ],
)
def test_the_data_dir_has_its_place(environ: dict[str, str], data_dir: str) -> None:
    settings = Settings.load(environ)
    assert settings.data_dir == Path(data_dir)
    assert settings.vector_embed_db == Path(data_dir) / "vector" / "embeddings.db"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({"FORGE_DATA_DIR": "d", "FORGE_PATH_BLOB_CACHE": "blobs"})
    assert settings.data_dir == tmp_path / "d"
    assert settings.vector_queue_db == tmp_path / "d" / "vector" / "queue.db"
    assert settings.blob_cache == tmp_path / "blobs"


@pytest.mark.parametrize(("newer", "older"), OLDER_NAMES)
def test_an_older_name_is_read_unless_the_newer_is_set(newer: str, older: str) -> None:
    field = field_of(newer)
    one, other = ("2", "3") if isinstance(Settings.model_fields[field].default, int) else ("/two", "/three")
    if field == "node_id":
        one, other = "two", "three"
    assert str(getattr(Settings.load({older: one}), field)) == one
    assert str(getattr(Settings.load({older: one, newer: other}), field)) == other
    assert str(getattr(Settings.load({older: one, newer: "  "}), field)) == one
    assert Settings.source(field, {older: one}) == older
    assert Settings.source(field, {older: one, newer: other}) == newer


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", ["0", "-1"])
def test_a_limit_must_be_positive(name: str, value: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings.load({name: value})
    assert refused.value.problems == [f"{name} must be > 0 (it is '{value}')"]


@pytest.mark.parametrize(
    "url",
    ["nonsense", "http://", "http://[", "ftp://host", "http://host:65536", "http://ho st", "http://key:secret@host"],
)
def test_an_address_of_no_server_is_named_before_it_is_used(url: str) -> None:
    """One of the S3 clients would crash at some of these."""
    with pytest.raises(InvalidSettings, match=r"^FORGE_S3_ENDPOINT_URL must begin with http://"):
        Settings.load({"FORGE_S3_ENDPOINT_URL": url})


@pytest.mark.parametrize(
    "url", ["https://host", "http://127.0.0.1:9000/", "http://host:65535", "https://[::1]:9000", "https://host/base"]
)
def test_addresses_of_servers_are_taken(url: str) -> None:
    assert Settings.load({"FORGE_S3_ENDPOINT_URL": url}).s3_endpoint_url == url


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings.load({"MAX_JOB_ATTEMPTS": "many", "FORGE_LOG_FORMAT": "xml", "FORGE_NODE_ID": "no:node"})
    assert {problem.split()[0] for problem in refused.value.problems} == {
        "MAX_JOB_ATTEMPTS",
        "FORGE_LOG_FORMAT",
        "FORGE_NODE_ID",
    }


@pytest.mark.parametrize("field", Settings.model_fields)
def test_a_variable_that_happens_to_be_named_like_a_field_is_ignored(field: str) -> None:
    """A shell full of variables such as `url` or `token` must not configure a node."""
    assert Settings.load({field: "/surprise"}) == Settings.load({})


def test_secrets_do_not_print() -> None:
    """PR6: a settings object may reach a log or a traceback."""
    settings = Settings.load({"FORGE_TOKEN": "hunter2", "FORGE_NATS_URL": "nats://u:hunter2@h:1"})
    assert "hunter2" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.token == SecretStr("hunter2")


@pytest.mark.parametrize(
    ("environ", "text", "image"),
    [
        ({}, "", ""),
        ({"FORGE_VECTOR_WORKER_URL": "http://w/"}, "http://w", "http://w"),
        ({"WORKER_URL": "http://w", "IMAGE_WORKER_URL": "http://i//"}, "http://i", "http://i"),
        ({"FORGE_VECTOR_TEXT_WORKER_URL": "http://t"}, "http://t", ""),
    ],
)
def test_text_falls_back_to_the_image_worker_and_that_to_any(environ: dict[str, str], text: str, image: str) -> None:
    settings = Settings.load(environ)
    assert (settings.worker_url("text"), settings.worker_url("image")) == (text, image)


def test_every_setting_is_described() -> None:
    assert not [field for field, info in Settings.model_fields.items() if not info.description]


def test_every_name_belongs_to_one_setting() -> None:
    names = [name for field in Settings.model_fields for name in Settings.names(field)]
    assert len(names) == len(set(names))


def test_the_page_of_settings_is_up_to_date() -> None:
    """`make docs` writes it again."""
    assert (ROOT / "docs" / "configuration.md").read_text() == settings_page()


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_of_seconds_is_finite(value: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        Settings.load({"FORGE_RELAY_SWITCH_TIMEOUT_S": value})
    (problem,) = refused.value.problems
    assert problem.startswith("FORGE_RELAY_SWITCH_TIMEOUT_S ")
    assert "finite" in problem


@pytest.mark.parametrize(
    ("given", "name"),
    [(" Ada's ", None), ("ada/laptop 2", "ada_laptop_2"), ("a\\b", "a_b"), (" Mixed.Case ", "Mixed.Case")],
)
def test_the_name_of_a_node_becomes_one_segment_of_a_key(given: str, name: str | None) -> None:
    if name is None:
        with pytest.raises(InvalidSettings, match="FORGE_NODE_NAME"):
            Settings.load({"FORGE_NODE_NAME": given})
    else:
        assert Settings.load({"FORGE_NODE_NAME": given}).node_id == name


def test_a_node_needs_a_name() -> None:
    with pytest.raises(ValueError, match="needs a name"):
        node_segment("  ")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("FORGE_NODE_NAME", "no:node", "must be at most 63 letters, digits, '.', '_' and '-'"),
        ("FORGE_S3_PREFIX", "/forge/", "with one '/' between parts and none at the ends"),
        ("FORGE_S3_PREFIX", "a/../b", "no part of dots alone"),
        ("FORGE_S3_PREFIX", ".", "no part of dots alone"),
        ("FORGE_S3_BUCKET", "s3://backups", "must be the name of a bucket alone"),
        ("FORGE_S3_ENDPOINT_URL", "localhost:8333", "must begin with http:// or https://"),
        ("FORGE_S3_REGION", "eu central", "must be the name of a region"),
        ("FORGE_LEASE_MODE", "on", "must be 'auto', 'hard', 'soft' or 'off'"),
        ("FORGE_LEASE_DURATION_S", "4000", "must be <= 3600"),
        ("FORGE_LEASE_DURATION_S", "a minute", "must be a number"),
        ("FORGE_ARCHIVE_SEAL_BYTES", "1MiB", "must be a whole number"),
        ("FORGE_ARCHIVE_SEAL_BYTES", "100000000", "must be <= 67108864"),
        ("FORGE_ARCHIVE_READY_LAG_S", "-1", "must be >= 0"),
        ("FORGE_S3_FORCE_PATH_STYLE", "perhaps", "must be true or false"),
        ("FORGE_PAYLOAD_ACK", "both", "must be 'local' or 'remote'"),
        ("FORGE_ENCRYPT", "all", "must be some of control,documents,vector,snapshot,refs"),
    ],
)
def test_a_problem_says_what_a_setting_must_be(name: str, value: str, why: str) -> None:
    """In the words of this project, not in those of a library."""
    with pytest.raises(InvalidSettings) as refused:
        Settings.load({name: value})
    (problem,) = refused.value.problems
    assert problem.startswith(f"{name} must ")
    assert why in problem
    assert problem.endswith(f"(it is {value!r})")


@pytest.mark.parametrize("field", ReplicationSettings.model_fields)
@pytest.mark.parametrize("value", ["-7", "1e300", "no such thing!"])
def test_no_setting_of_replication_is_refused_in_words_of_a_library(field: str, value: str) -> None:
    name = Settings.names(field)[0]
    problems: list[str] = []
    try:
        Settings.load({name: value})
    except InvalidSettings as refused:
        problems = refused.problems
    assert all("should" not in problem and " must " in problem for problem in problems)


@pytest.mark.parametrize("name", ["FORGE_S3_ACCESS_KEY_ID", "FORGE_S3_SESSION_TOKEN"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_told(name: str) -> None:
    """One of the S3 clients ends in a traceback of Rust there."""
    with pytest.raises(InvalidSettings, match=f"{name} must hold no end of line") as refused:
        Settings.load({name: "canary\rcanary"})
    assert "canary" not in str(refused.value)
