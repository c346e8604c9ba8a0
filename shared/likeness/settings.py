"""The only reader of environment variables. docs/reference/settings.md explains each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, field

from likeness.errors import ConfigurationError
from likeness.filters import Schema

MIB = 1024 * 1024
# Two minutes of work for five index functions at 60 ms an image.
MAX_WAITING = 10_000
# How long an event may wait in the queue; beyond it the alarm on the queue's age fires.
EVENT_LAG_S = 900.0
# Lambda gives one vCPU for each 1,769 MB (AWS Lambda guide, "Configure Lambda function memory").
_MEMORY_PER_VCPU_MB = 1769
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Limits(Struct, frozen=True):
    """Limits of one image. `formats` are Pillow's names of the supported formats."""

    max_bytes: int = 20 * MIB
    max_pixels: int = 50_000_000
    formats: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


class Settings(Struct, frozen=True):
    """`index_url` is http(s)://… for a Qdrant server, file://… for the embedded engine.

    With `tenant_claim`, each object belongs to a tenant, whose name follows `prefix` in its key.
    `write_keys` are ids of API keys, `write_group` is a Cognito group: where either is set, only
    they may write.
    """

    index_url: str
    model_dir: Path
    bucket: str | None = None
    prefix: str = ""
    queue_url: str | None = None
    max_waiting: int = MAX_WAITING
    event_lag_s: float = EVENT_LAG_S
    upload_prefix: str = ""
    alias: str = "images"
    next_model_dir: Path | None = None
    index_api_key: str | None = None
    index_api_key_secret: str | None = None
    index_timeout_s: float = 5.0
    read_tags: bool = False
    keep_patches: bool = False
    image_hosts: tuple[str, ...] = ()
    event_bus: str | None = None
    metrics_namespace: str = "Likeness"
    answer_log: Path | None = None
    search_version: str | None = None
    index_version: str | None = None
    schema: Schema = field(default_factory=Schema)
    limits: Limits = field(default_factory=Limits)
    threads: int = 1
    tenant_claim: str | None = None
    write_keys: tuple[str, ...] = ()
    write_group: str | None = None

    @property
    def tenant_prefix(self) -> str | None:
        """The prefix before tenants' names in keys; None without tenants."""
        return self.prefix if self.tenant_claim else None

    @property
    def model_dirs(self) -> list[Path]:
        """The bundles to load: the current one, and during a migration the next one."""
        return [self.model_dir, *([self.next_model_dir] if self.next_model_dir else [])]

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Raises ConfigurationError naming the variable that is missing or malformed."""
        memory_mb = _number(env, "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", _MEMORY_PER_VCPU_MB)
        threads = max(1, round(memory_mb / _MEMORY_PER_VCPU_MB))
        extra = [name.upper() for name in _list(env, "LIKENESS_EXTRA_FORMATS")]
        if unknown := set(extra) - {"HEIF", "AVIF"}:
            raise ConfigurationError(
                f"LIKENESS_EXTRA_FORMATS: {', '.join(sorted(unknown))} is unknown; "
                "supported are heif and avif"
            )
        defaults = Limits()
        next_model_dir = env.get("LIKENESS_NEXT_MODEL_DIR")
        return cls(
            index_url=_required(env, "QDRANT_URL").rstrip("/"),
            model_dir=Path(env.get("LIKENESS_MODEL_DIR") or "/opt/model"),
            next_model_dir=Path(next_model_dir) if next_model_dir else None,
            bucket=env.get("LIKENESS_BUCKET") or None,
            prefix=env.get("LIKENESS_PREFIX", ""),
            queue_url=env.get("LIKENESS_QUEUE_URL") or None,
            max_waiting=_integer(env, "LIKENESS_MOST_WAITING", MAX_WAITING),
            event_lag_s=_number(env, "LIKENESS_EVENT_LAG_S", EVENT_LAG_S),
            upload_prefix=env.get("LIKENESS_UPLOAD_PREFIX", ""),
            tenant_claim=env.get("LIKENESS_TENANT_CLAIM") or None,
            write_keys=_list(env, "LIKENESS_WRITE_KEY_IDS"),
            write_group=env.get("LIKENESS_WRITE_GROUP") or None,
            alias=env.get("LIKENESS_ALIAS") or "images",
            index_api_key=env.get("QDRANT_API_KEY") or None,
            index_api_key_secret=env.get("QDRANT_API_KEY_SECRET_ARN") or None,
            index_timeout_s=_number(env, "QDRANT_TIMEOUT_S", 5.0),
            read_tags=_boolean(env, "LIKENESS_READ_TAGS"),
            keep_patches=_boolean(env, "LIKENESS_KEEP_PATCHES"),
            image_hosts=_list(env, "LIKENESS_IMAGE_URL_HOSTS"),
            event_bus=env.get("LIKENESS_EVENT_BUS") or None,
            metrics_namespace=env.get("POWERTOOLS_METRICS_NAMESPACE") or "Likeness",
            answer_log=Path(log) if (log := env.get("LIKENESS_ANSWER_LOG")) else None,
            search_version=env.get("LIKENESS_SEARCH_VERSION") or None,
            index_version=env.get("LIKENESS_INDEX_VERSION") or None,
            schema=_schema(env),
            limits=Limits(
                max_bytes=_integer(env, "LIKENESS_MAX_BYTES", defaults.max_bytes),
                max_pixels=_integer(env, "LIKENESS_MAX_PIXELS", defaults.max_pixels),
                formats=(*defaults.formats, *extra),
            ),
            threads=_integer(env, "LIKENESS_THREADS", threads),
        )


def _required(env: Mapping[str, str], name: str) -> str:
    if not env.get(name):
        raise ConfigurationError(f"{name} is not set")
    return env[name]


def _number(env: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(env.get(name) or default)
    except ValueError:
        raise ConfigurationError(f"{name} is not a number: {env[name]!r}") from None
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"{name} must be above zero: {env[name]!r}")
    return value


def _integer(env: Mapping[str, str], name: str, default: int) -> int:
    value = _number(env, name, default)
    if value != int(value):
        raise ConfigurationError(f"{name} must be a whole number: {env[name]!r}")
    return int(value)


def _boolean(env: Mapping[str, str], name: str) -> bool:
    try:
        return _BOOLEANS[(env.get(name) or "no").lower()]
    except KeyError:
        raise ConfigurationError(f"{name} is neither true nor false: {env[name]!r}") from None


def _list(env: Mapping[str, str], name: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(part.strip() for part in env.get(name, "").split(",") if part.strip())


def _schema(env: Mapping[str, str]) -> Schema:
    text = env.get("LIKENESS_PAYLOAD_SCHEMA") or "{}"
    try:
        return Schema.declare(json.loads(text))
    except (ValueError, RecursionError):
        raise ConfigurationError(f"LIKENESS_PAYLOAD_SCHEMA is not JSON: {text!r}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"LIKENESS_PAYLOAD_SCHEMA: {error}") from None
