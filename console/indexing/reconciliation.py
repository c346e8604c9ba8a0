"""Compares a bucket with the index, as the drift function does, and reports the differences."""

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
from likeness.drift import Difference, DifferenceKind, DriftConfig, DriftDetector
from likeness.errors import ConfigurationError, IndexMissing
from likeness.feeding import HintFeeder
from likeness.ports import VectorIndex
from likeness.settings import MAX_WAITING, Settings
from likeness.sync import settings_digest

from ..local.index_sharing import RunningIndex
from ..terminal import rate_progress
from .contents import check_bucket, index_name

if TYPE_CHECKING:
    from ..local.data_folder import LocalService

_MAX_REPORTED, _MAX_PRINTED = 10_000, 20
_MEANING = {
    DifferenceKind.MISSING: "in the bucket, not in the index",
    DifferenceKind.CHANGED: "indexed in another version or under other settings",
    DifferenceKind.EXTRA: "in the index, not in the bucket",
    DifferenceKind.DIFFERING: "held differently by replicas of the index",
}


class Options(Struct, frozen=True):
    bucket: str | None
    prefix: str
    lag_s: float
    dry_run: bool
    force: bool = False


class Service(Struct, frozen=True):
    """What to compare with what, and where hints go.

    `settings` is the digest of the settings that points are indexed with, `prefix` the prefix of
    every key that the service indexes. `name` is a deployed service's index, as people know it.
    """

    index: VectorIndex
    bucket: str | None
    queue_url: str | None
    settings: str
    max_waiting: int = MAX_WAITING
    prefix: str = ""
    name: str | None = None


def deployed(env: Mapping[str, str]) -> Service:
    settings = Settings.from_env(env)
    digest = settings_digest(settings.schema, settings.limits, settings.tenant_prefix)
    index = open_index(settings)
    most = settings.max_waiting
    return Service(
        index,
        settings.bucket,
        settings.queue_url,
        digest,
        most,
        settings.prefix,
        index_name(settings),
    )


def local(service: LocalService) -> Service:
    index = cast("VectorIndex", RunningIndex(service.index_port, service.index_key.encode()))
    return Service(index, service.bucket, service.queue_url, service.settings)


def run(options: Options, service: Service, out: Console) -> dict[str, Any]:
    """Compare, with progress bars; returns the report with the first 10,000 differences.

    Raises ConfigurationError if the bucket or the queue is not set, or the index holds only other
    buckets' images, Unavailable if one is down.
    """
    bucket = options.bucket or service.bucket
    if not bucket:
        raise ConfigurationError("LIKENESS_BUCKET is not set; set it, or pass --bucket")
    differences: list[Difference] = []
    send = None if options.dry_run else _feeder(service).send
    if service.name:
        _check_index(service.index, bucket, service.name, options.force, out)

    def repair(found: list[Difference]) -> None:
        if send:
            send([difference.ref for difference in found])
        differences.extend(found[: _MAX_REPORTED - len(differences)])

    total = None
    with contextlib.suppress(IndexMissing):
        total = service.index.info().points
    with rate_progress(out) as progress:
        tasks = {
            "points": progress.add_task("index", total=total),
            "objects": progress.add_task("bucket", total=None),
        }
        config = DriftConfig(
            bucket,
            options.prefix or service.prefix,
            service.settings,
            options.lag_s,
            sweep=not options.dry_run,
        )
        report = DriftDetector(
            S3Store(),
            service.index,
            config,
            repair,
            on_progress=lambda what, count: progress.advance(tasks[what], count),
        ).run()
    return {
        "bucket": bucket,
        "prefix": options.prefix or service.prefix,
        "dry_run": options.dry_run,
        "drift": report.drift,
        **msgspec.to_builtins(report),
        "differences": [{"key": d.ref.key, "kind": d.kind.value} for d in differences],
    }


def _check_index(index: VectorIndex, bucket: str, name: str, force: bool, out: Console) -> None:
    out.print(f"[bold]index[/bold]  {escape(name)}, images of s3://{bucket}", soft_wrap=True)
    try:
        check_bucket(index, bucket, name)
    except ConfigurationError as error:
        if not force:
            raise ConfigurationError(f"{error}; --force compares them all the same") from None


def _feeder(service: Service) -> HintFeeder:
    if not service.queue_url:
        raise ConfigurationError("LIKENESS_QUEUE_URL is not set; only --dry-run works without it")
    return HintFeeder(SqsQueue(service.queue_url), service.max_waiting)


def print_report(found: Mapping[str, Any], out: Console) -> None:
    table = Table("", "", "", show_header=False, box=None)
    for kind, meaning in _MEANING.items():
        count = found[kind.value]
        colour = "yellow" if count else "green"
        table.add_row(kind.value, f"[{colour}]{count:,}[/{colour}]", f"[dim]{meaning}[/dim]")
    rest = {
        "young": "changed recently, left to their events",
        "ignored": "in the bucket, cannot be images",
        "swept": "tombstones older than 30 days",
    }
    for name, meaning in rest.items():
        table.add_row(name, f"{found[name]:,}", f"[dim]{meaning}[/dim]")
    out.print(f"{found['objects']:,} objects, {found['points']:,} points")
    out.print(table)
    for difference in found["differences"][:_MAX_PRINTED]:
        out.print(f"  [yellow]{difference['kind']:>7}[/yellow]  {escape(difference['key'])}")
    if found["drift"] > _MAX_PRINTED:
        out.print(f"  … and {found['drift'] - _MAX_PRINTED:,} more; --json lists {_MAX_REPORTED:,}")
    if found["drift"]:
        out.print(
            "nothing was changed" if found["dry_run"] else "hints were sent; compare again later"
        )
