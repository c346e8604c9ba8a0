"""AWS's public prices (prices.json), and what the service's requests and resources cost."""

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
# Reconciling one object takes a HeadObject, a GetObject and another HeadObject.
_BUCKET_GETS = 3
# The memory at which Lambda gives a function one processor.
_PROCESSOR_MB = 1769
# X-Ray's default sampling: one request a second, and this share of the others.
_TRACED = 0.05
# Numbers of resources in template.yaml; tests/console/test_cost.py counts them.
SNAPSHOTS, ALARMS, SECRETS = 2, 18, 2
# Custom metrics, if all are published: 28 of search, 21 of index, 5 others.
_METRICS = 54


class Price(Struct, frozen=True):
    """`checked` says whether a second source agreed."""

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
    """Measurements of one function with one setting.

    `billed_ms` is of one answer, or of one image in a batch; `cpu_ms` the CPU time in it;
    `peak_mib` the peak memory of the process.
    """

    memory_mb: int
    threads: int
    billed_ms: float
    p95_ms: float | None = None
    cpu_ms: float | None = None
    peak_mib: float | None = None


class Measurements(Struct, frozen=True):
    """What benchmarks/memory.py writes. Bytes are those of one answer, or logged for one.

    The defaults are its results of 2026-11-22. `gate_ms` is the processor time in which an image is
    compared with the index in all orientations (`on` less `off` in benchmarks/gate.py), `pair_ms`
    that of reading and proving a suspected duplicate; `pairs` is how many an image has.
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
    gate_ms: float = 20.5
    pair_ms: float = 40.0
    pairs: float = 0.1


@functools.cache
def price_list() -> PriceList:
    return msgspec.json.decode(_PRICES.read_bytes(), type=PriceList)


def read(file: Path) -> Measurements:
    """Read a file of benchmarks/memory.py. Raises ServiceError if it is another file."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Measurements)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError) as error:
        raise ServiceError(f"{file} was not written by benchmarks/memory.py: {error}") from error


def lambda_usd(billed_ms: float, memory_mb: int, architecture: Architecture = "x86_64") -> float:
    """Dollars for the duration of one invocation. Lambda's GB has 1,024 MB."""
    second = price_list().usd(f"lambda_gb_second_{architecture}")
    return billed_ms / 1000 * memory_mb / 1024 * second


def search_usd(run: Run, measured: Measurements, architecture: Architecture) -> dict[str, float]:
    """Dollars by cost item for a million searches with an image in the request."""
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


def index_usd(run: Run, measured: Measurements, architecture: Architecture) -> dict[str, float]:
    """Dollars by cost item for indexing a million images, in full batches."""
    prices = price_list()
    batches = _MILLION / measured.batch
    logged = _MILLION * measured.index_log_bytes + batches * _LAMBDA_LOG_BYTES
    return {
        "Lambda, time": _MILLION * lambda_usd(run.billed_ms, run.memory_mb, architecture),
        "Lambda, requests": batches * prices.usd("lambda_request"),
        # one message is sent for each image; a batch is received and deleted in one request
        "queue": (_MILLION + 2 * batches) * prices.usd("queue_request"),
        "bucket, reading": _MILLION * _BUCKET_GETS * prices.usd("bucket_get"),
        "bucket, suspected duplicates": _MILLION * measured.pairs * prices.usd("bucket_get"),
        "bucket, uploads": _MILLION * prices.usd("bucket_put"),
        "logs": logged / _GB * prices.usd("logs_gb"),
        "traces": batches * _TRACED * prices.usd("trace"),
    }


def gate_usd(measured: Measurements, architecture: Architecture) -> dict[str, float]:
    """Dollars by cost item for finding the duplicates of a million images, a part of `index_usd`.

    With less memory than for one processor it takes longer, and costs the same.
    """
    proofs_ms = measured.pairs * measured.pair_ms
    return {
        "comparing, in all orientations": _MILLION
        * lambda_usd(measured.gate_ms, _PROCESSOR_MB, architecture),
        "proving suspected duplicates": _MILLION
        * lambda_usd(proofs_ms, _PROCESSOR_MB, architecture),
        "reading them": _MILLION * measured.pairs * price_list().usd("bucket_get"),
    }


def month_usd(memory_mb: int) -> dict[str, float]:
    """Dollars a month by cost item if idle; without Qdrant and the bucket's storage."""
    prices = price_list()
    snapshot = memory_mb / 1024 * _MONTH_S * prices.usd("snapstart_cache_gb_second")
    return {
        "SnapStart, one version of each function that has it": SNAPSHOTS * snapshot,
        "metrics, if published every hour": _METRICS * prices.usd("metric_month"),
        "alarms": ALARMS * prices.usd("alarm_month"),
        "dashboard": prices.usd("dashboard_month"),
        "secrets": SECRETS * prices.usd("secret_month"),
    }
