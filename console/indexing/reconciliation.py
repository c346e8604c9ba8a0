"""`likeness reconcile`: the drift function's work by hand, with a report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from likeness.adapters.index import open_index
from likeness.adapters.s3 import S3Store
from likeness.adapters.sqs import SqsQueue
from likeness.drift import Difference, DriftConfig, DriftDetector, Kind
from likeness.errors import ConfigurationError, IndexMissing
from likeness.feeding import HintFeeder
from likeness.ports import VectorIndex
from likeness.settings import MAX_WAITING, Settings
from likeness.sync import settings_digest

from ..local.index_sharing import RunningIndex
from .backfill import bar

if TYPE_CHECKING:
    from ..local.runner import LocalService

_KEPT, _SHOWN = 10_000, 20
_MEANING = {
    Kind.MISSING: "in the bucket, not in the index",
    Kind.CHANGED: "indexed as it was before",
    Kind.EXTRA: "in the index, not in the bucket",
}


class Wanted(Struct, frozen=True):
    bucket: str | None
    prefix: str
    lag_s: float
    dry_run: bool


class Side(Struct, frozen=True):
    """What is compared: `settings` is the digest that points are indexed under, `prefix` what the
    keys of all objects begin with.
    """

    index: VectorIndex
    bucket: str | None
    queue_url: str | None
    settings: str
    max_waiting: int = MAX_WAITING
    prefix: str = ""


def deployed(env: Mapping[str, str]) -> Side:
    settings = Settings.from_env(env)
    digest = settings_digest(settings.schema, settings.limits, settings.tenant_prefix)
    index = open_index(settings)
    most = settings.max_waiting
    return Side(index, settings.bucket, settings.queue_url, digest, most, settings.prefix)


def local(service: LocalService) -> Side:
    index = cast("VectorIndex", RunningIndex(service.index_port, service.index_key.encode()))
    return Side(index, service.bucket, service.queue_url, service.settings)


def run(wanted: Wanted, side: Side, out: Console) -> dict[str, Any]:
    """The report, and the first 10,000 differences; with progress bars.

    Raises ConfigurationError where bucket or queue are not named, Unavailable where one is down.
    """
    bucket = wanted.bucket or side.bucket
    if not bucket:
        raise ConfigurationError("LIKENESS_BUCKET is not set; or name a --bucket")
    differences: list[Difference] = []
    send = None if wanted.dry_run else _feeder(side).send

    def repair(found: list[Difference]) -> None:
        if send:
            send([difference.ref for difference in found])
        differences.extend(found[: _KEPT - len(differences)])

    total = None
    with contextlib.suppress(IndexMissing):
        total = side.index.info().points
    with bar(out) as shown:
        tasks = {
            "points": shown.add_task("index", total=total),
            "objects": shown.add_task("bucket", total=None),
        }
        config = DriftConfig(
            bucket,
            wanted.prefix or side.prefix,
            side.settings,
            wanted.lag_s,
            sweep=not wanted.dry_run,
        )
        report = DriftDetector(
            S3Store(),
            side.index,
            config,
            repair,
            on_progress=lambda what, count: shown.advance(tasks[what], count),
        ).run()
    return {
        "bucket": bucket,
        "prefix": wanted.prefix or side.prefix,
        "dry_run": wanted.dry_run,
        "drift": report.drift,
        **msgspec.to_builtins(report),
        "differences": [{"key": d.ref.key, "kind": d.kind.value} for d in differences],
    }


def _feeder(side: Side) -> HintFeeder:
    if not side.queue_url:
        raise ConfigurationError("LIKENESS_QUEUE_URL is not set; --dry-run needs none")
    return HintFeeder(SqsQueue(side.queue_url), side.max_waiting)


def show(found: Mapping[str, Any], out: Console) -> None:
    table = Table("", "", "", show_header=False, box=None)
    for kind, meaning in _MEANING.items():
        count = found[kind.value]
        colour = "yellow" if count else "green"
        table.add_row(kind.value, f"[{colour}]{count:,}[/{colour}]", f"[dim]{meaning}[/dim]")
    rest = {
        "young": "left to their events",
        "ignored": "in the bucket, can be no pictures",
        "swept": "tombstones older than 30 days",
    }
    for name, meaning in rest.items():
        table.add_row(name, f"{found[name]:,}", f"[dim]{meaning}[/dim]")
    out.print(f"{found['objects']:,} objects, {found['points']:,} points")
    out.print(table)
    for difference in found["differences"][:_SHOWN]:
        out.print(f"  [yellow]{difference['kind']:>7}[/yellow]  {escape(difference['key'])}")
    if found["drift"] > _SHOWN:
        out.print(f"  … and {found['drift'] - _SHOWN:,} more; --json lists {_KEPT:,}")
    if found["drift"]:
        out.print(
            "nothing was changed" if found["dry_run"] else "hints are on the queue; compare again"
        )
