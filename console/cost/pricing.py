"""What AWS charges: the public price list (prices.json), and what the service's work comes to."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from ..client import ServiceError

Architecture = Literal["x86_64", "arm64"]
ARCHITECTURES: Sequence[Architecture] = ("x86_64", "arm64")
_PRICES = Path(__file__).with_name("prices.json")
_MILLION = 1_000_000
_GB = 1e9
_MONTH_S = 30 * 24 * 3600
# Lambda writes three lines of its own about each invocation: START, END and REPORT.
_LAMBDA_LOG_BYTES = 350
# Head, read, and head again: what reconciling one object asks of the bucket.
_BUCKET_GETS = 3
# X-Ray's own sampling: one request a second, and of those beyond it this share.
_TRACED = 0.05
# What template.yaml makes; tests/console/test_costing.py counts them there.
SNAPSHOTS, ALARMS, SECRETS = 2, 16, 2
# Kinds of metrics that are published where everything happens: 27 of search, 20 of index, 5 others.
_METRICS = 52


class Price(Struct, frozen=True):
    """`checked`: a second publication agreed."""

    usd: float
    per: str
    source: str
    checked: bool


class PriceList(Struct, frozen=True):
    region: str
    as_of: str
    note: str
    prices: Mapping[str, Price]

    def usd(self, name: str) -> float:
        return self.prices[name].usd


class Run(Struct, frozen=True):
    """One setting of one function, measured. billed_ms: of an answer, or of an image in a batch.

    cpu_ms: the processor's share of it. peak_mib: the most memory that its process held.
    """

    memory_mb: int
    threads: int
    billed_ms: float
    p95_ms: float | None = None
    cpu_ms: float | None = None
    peak_mib: float | None = None


class Measured(Struct, frozen=True):
    """What benchmarks/memory.py writes. Bytes: of one answer, and of one answer's or image's log.

    The numbers that stand here are its own, of 2026-11-22.
    """

    how: str
    search: Sequence[Run] = ()
    index: Sequence[Run] = ()
    answer_bytes: float = 23_400
    search_log_bytes: float = 3_580
    index_log_bytes: float = 300
    search_qdrant_calls: float = 1
    index_qdrant_calls: float = 0.4
    batch: int = 10


@functools.cache
def price_list() -> PriceList:
    return msgspec.json.decode(_PRICES.read_bytes(), type=PriceList)


def read(file: Path) -> Measured:
    """Raises ServiceError where it is no such file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Measured)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise ServiceError(f"{file} is not what benchmarks/memory.py writes: {error}") from error


def lambda_usd(billed_ms: float, memory_mb: int, architecture: Architecture = "x86_64") -> float:
    """Of the time of one invocation. Lambda's GB has 1,024 MB."""
    second = price_list().usd(f"lambda_gb_second_{architecture}")
    return billed_ms / 1000 * memory_mb / 1024 * second


def search_usd(run: Run, measured: Measured, architecture: Architecture) -> dict[str, float]:
    """Of a million answers to pictures in requests, by what is paid for."""
    prices = price_list()
    logged = measured.search_log_bytes + _LAMBDA_LOG_BYTES
    return {
        "Lambda, time": _MILLION * lambda_usd(run.billed_ms, run.memory_mb, architecture),
        "Lambda, requests": _MILLION * prices.usd("lambda_request"),
        "API Gateway": _MILLION * prices.usd("api_request"),
        "logs": _MILLION * logged / _GB * prices.usd("logs_gb"),
        "traffic out": _MILLION * measured.answer_bytes / _GB * prices.usd("transfer_out_gb"),
        "traces": _MILLION * _TRACED * prices.usd("trace"),
    }


def index_usd(run: Run, measured: Measured, architecture: Architecture) -> dict[str, float]:
    """Of a million images, from the upload's event on, in full batches."""
    prices = price_list()
    batches = _MILLION / measured.batch
    logged = _MILLION * measured.index_log_bytes + batches * _LAMBDA_LOG_BYTES
    return {
        "Lambda, time": _MILLION * lambda_usd(run.billed_ms, run.memory_mb, architecture),
        "Lambda, requests": batches * prices.usd("lambda_request"),
        # one is sent for each image; a batch is received and deleted at once
        "queue": (_MILLION + 2 * batches) * prices.usd("queue_request"),
        "bucket, reading": _MILLION * _BUCKET_GETS * prices.usd("bucket_get"),
        "bucket, uploads": _MILLION * prices.usd("bucket_put"),
        "logs": logged / _GB * prices.usd("logs_gb"),
        "traces": batches * _TRACED * prices.usd("trace"),
    }


def month_usd(memory_mb: int) -> dict[str, float]:
    """What costs even if nothing is asked, a month; without Qdrant and what the bucket holds."""
    prices = price_list()
    snapshot = memory_mb / 1024 * _MONTH_S * prices.usd("snapstart_cache_gb_second")
    return {
        "SnapStart, a version of each function that is waited for": SNAPSHOTS * snapshot,
        "metrics, each hour that they are published": _METRICS * prices.usd("metric_month"),
        "alarms": ALARMS * prices.usd("alarm_month"),
        "dashboard": prices.usd("dashboard_month"),
        "secrets": SECRETS * prices.usd("secret_month"),
    }
