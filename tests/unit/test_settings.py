"""Environment variables → Settings: the defaults, and an error that names what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from likeness.adapters.index import open_index
from likeness.adapters.qdrant_embedded import EmbeddedIndex
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.errors import ConfigurationError
from likeness.filters import Schema
from likeness.settings import MIB, Limits, Settings

URL = "http://localhost:6333"
NUMBERS = [
    "QDRANT_TIMEOUT_S",
    "LIKENESS_EVENT_LAG_S",
    "LIKENESS_MAX_BYTES",
    "LIKENESS_MAX_PIXELS",
    "LIKENESS_MOST_WAITING",
    "LIKENESS_THREADS",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
]
OPTIONAL = [
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "LIKENESS_ALIAS",
    "LIKENESS_BUCKET",
    "LIKENESS_EVENT_BUS",
    "LIKENESS_EVENT_LAG_S",
    "LIKENESS_EXTRA_FORMATS",
    "LIKENESS_IMAGE_URL_HOSTS",
    "LIKENESS_KEEP_PATCHES",
    "LIKENESS_MAX_BYTES",
    "LIKENESS_MAX_PIXELS",
    "LIKENESS_MODEL_DIR",
    "LIKENESS_NEXT_MODEL_DIR",
    "LIKENESS_MOST_WAITING",
    "LIKENESS_PAYLOAD_SCHEMA",
    "LIKENESS_PREFIX",
    "LIKENESS_QUEUE_URL",
    "LIKENESS_READ_TAGS",
    "LIKENESS_TENANT_CLAIM",
    "LIKENESS_THREADS",
    "LIKENESS_UPLOAD_PREFIX",
    "LIKENESS_WRITE_GROUP",
    "LIKENESS_WRITE_KEY_IDS",
    "QDRANT_API_KEY",
    "QDRANT_API_KEY_SECRET_ARN",
    "QDRANT_TIMEOUT_S",
]
DEFAULTS = Settings(
    index_url=URL,
    model_dir=Path("/opt/model"),
    next_model_dir=None,
    bucket=None,
    prefix="",
    queue_url=None,
    max_waiting=10_000,
    event_lag_s=900.0,
    upload_prefix="",
    alias="images",
    index_api_key=None,
    index_api_key_secret=None,
    index_timeout_s=5.0,
    read_tags=False,
    keep_patches=False,
    image_hosts=(),
    event_bus=None,
    schema=Schema({}),
    limits=Limits(20 * MIB, 50_000_000, ("JPEG", "PNG", "WEBP", "GIF", "BMP")),
    threads=1,
    tenant_claim=None,
    write_keys=(),
    write_group=None,
)


def settings(**env: str) -> Settings:
    return Settings.from_env({"QDRANT_URL": URL, **env})


def test_only_the_index_must_be_named() -> None:
    assert settings() == DEFAULTS


@pytest.mark.parametrize("name", OPTIONAL)
def test_an_empty_variable_is_an_unset_one(name: str) -> None:
    assert settings(**{name: ""}) == DEFAULTS


@pytest.mark.parametrize("env", [{}, {"QDRANT_URL": ""}])
def test_a_missing_index_is_named(env: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="QDRANT_URL is not set"):
        Settings.from_env(env)


def test_every_variable_is_read() -> None:
    found = settings(
        QDRANT_URL="https://qdrant.example.com:6333/",
        QDRANT_API_KEY="k",
        QDRANT_API_KEY_SECRET_ARN="arn:aws:secretsmanager:…",
        QDRANT_TIMEOUT_S="2.5",
        LIKENESS_MODEL_DIR="/model",
        LIKENESS_NEXT_MODEL_DIR="/next",
        LIKENESS_BUCKET="photos",
        LIKENESS_UPLOAD_PREFIX="uploads/",
        LIKENESS_ALIAS="shoes",
        LIKENESS_READ_TAGS="true",
        LIKENESS_KEEP_PATCHES="true",
        LIKENESS_IMAGE_URL_HOSTS="images.example.com, *.cdn.example.com,",
        LIKENESS_EVENT_BUS="photos",
        LIKENESS_PAYLOAD_SCHEMA='{"brand": "keyword"}',
        LIKENESS_MAX_BYTES="1000",
        LIKENESS_MAX_PIXELS="2e6",
        LIKENESS_EXTRA_FORMATS="heif, avif",
        LIKENESS_THREADS="3",
        LIKENESS_PREFIX="img/",
        LIKENESS_TENANT_CLAIM="custom:tenant",
        LIKENESS_WRITE_KEY_IDS="k1, k2,",
        LIKENESS_WRITE_GROUP="curators",
    )
    assert found == Settings(
        index_url="https://qdrant.example.com:6333",
        model_dir=Path("/model"),
        next_model_dir=Path("/next"),
        bucket="photos",
        upload_prefix="uploads/",
        alias="shoes",
        index_api_key="k",
        index_api_key_secret="arn:aws:secretsmanager:…",
        index_timeout_s=2.5,
        read_tags=True,
        keep_patches=True,
        image_hosts=("images.example.com", "*.cdn.example.com"),
        event_bus="photos",
        schema=Schema({"brand": "keyword"}),
        limits=Limits(1000, 2_000_000, (*Limits().formats, "HEIF", "AVIF")),
        threads=3,
        prefix="img/",
        tenant_claim="custom:tenant",
        write_keys=("k1", "k2"),
        write_group="curators",
    )


@pytest.mark.parametrize("text", ["five", "0", "-1", "nan", "inf", "1e999", "0x10", "1 000"])
@pytest.mark.parametrize("name", NUMBERS)
def test_the_error_for_an_invalid_number_names_the_variable(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} .*'{text}'"):
        settings(**{name: text})


@pytest.mark.parametrize("name", ["LIKENESS_MAX_BYTES", "LIKENESS_MAX_PIXELS", "LIKENESS_THREADS"])
def test_the_error_for_a_fractional_count_names_the_variable(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number: '0.5'"):
        settings(**{name: "0.5"})


@pytest.mark.parametrize(
    ("memory_mb", "threads"),
    [
        ("128", 1),
        ("512", 1),
        ("1769", 1),
        ("2048", 1),
        ("3008", 2),
        ("3538", 2),
        ("5307", 3),
        ("8845", 5),
        ("10240", 6),
    ],
)
def test_there_is_one_thread_for_each_vcpu_of_lambda(memory_mb: str, threads: int) -> None:
    assert settings(AWS_LAMBDA_FUNCTION_MEMORY_SIZE=memory_mb).threads == threads


def test_the_number_of_threads_that_is_set_wins() -> None:
    assert settings(AWS_LAMBDA_FUNCTION_MEMORY_SIZE="10240", LIKENESS_THREADS="2").threads == 2


@pytest.mark.parametrize("text", ["tiff", "heif;avif", "HEIF,JPEG2000"])
def test_an_unknown_format_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"LIKENESS_EXTRA_FORMATS: .* is unknown"):
        settings(LIKENESS_EXTRA_FORMATS=text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("true", True), ("1", True), ("Yes", True), ("false", False), ("0", False), ("no", False)],
)
def test_a_switch_is_on_or_off(text: str, expected: bool) -> None:
    found = settings(LIKENESS_READ_TAGS=text, LIKENESS_KEEP_PATCHES=text)
    assert (found.read_tags, found.keep_patches) == (expected, expected)


@pytest.mark.parametrize("name", ["LIKENESS_READ_TAGS", "LIKENESS_KEEP_PATCHES"])
@pytest.mark.parametrize("text", ["ture", "2", "ja"])
def test_a_switch_that_is_neither_is_named(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} .*'{text}'"):
        settings(**{name: text})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("brand", "is not JSON"),
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ('"brand"', "must be an object"),
        ('{"Brand": "keyword"}', "'Brand'"),
        ('{"brand": "text"}', "'brand'.*'text'"),
        ('{"brand": []}', "'brand'"),
        ('{"width": "integer"}', "'width'"),
    ],
)
def test_a_wrong_schema_is_named_with_the_key_that_is_wrong(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s)^LIKENESS_PAYLOAD_SCHEMA.*{why}"):
        settings(LIKENESS_PAYLOAD_SCHEMA=text)


@pytest.mark.parametrize("url", ["ftp://host", "localhost:6333", "file://", "qdrant", "://x"])
def test_an_index_of_an_unknown_kind_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="QDRANT_URL"):
        open_index(settings(QDRANT_URL=url))


@pytest.mark.parametrize("url", ["http://localhost:1", "https://localhost:1/"])
def test_an_http_url_names_a_server(url: str) -> None:
    index = open_index(settings(QDRANT_URL=url))
    assert isinstance(index, QdrantIndex)
    index.close()


def test_a_file_url_names_the_folder_of_the_embedded_engine(tmp_path: Path) -> None:
    folder = tmp_path / "my photos ü%"
    index = open_index(settings(QDRANT_URL=folder.as_uri()))
    assert isinstance(index, EmbeddedIndex)
    assert folder.is_dir()
    index.close()
