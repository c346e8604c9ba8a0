"""`likeness index s3://bucket/prefix`: hints at every object there, as fast as they are indexed."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from likeness.feeding import HintFeeder, batches, may_be_image
from likeness.ports import ObjectListing
from likeness.records import ListedObject, ObjectRef

from ..client import ServiceError
from ..cost.pricing import lambda_usd, price_list

# More are fed by the state machine of template.yaml: a laptop closes before they are through.
MOST_OBJECTS = 1_000_000
_PAGE = 1000
# The index function's: messages of one invocation, and of one call to SQS.
_BATCH = 10
# For each picture a HeadObject before and after the write, and a GetObject.
_READS = 3

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Source:
    """What is to be indexed. With `takes_all`, also what can be no picture by its name."""

    bucket: str
    prefix: str
    takes_all: bool = False

    def entries(self, store: ObjectListing, after: str = "") -> Iterator[ListedObject]:
        return store.entries(self.bucket, self.prefix, after)

    def takes(self, entry: ListedObject) -> bool:
        return self.takes_all or may_be_image(entry.ref.key, entry.size)


class Cursor:
    """The last key whose hints the queue has taken, on disk: one for each source and queue."""

    def __init__(self, folder: Path, source: Source, queue_url: str) -> None:
        self._what = {
            "bucket": source.bucket,
            "prefix": source.prefix,
            "all": source.takes_all,
            "queue": queue_url,
        }
        name = hashlib.sha256(json.dumps(self._what).encode()).hexdigest()[:16]
        self._file = folder / f"backfill-{name}.json"

    def read(self) -> str:
        """Empty where nothing was sent yet. Raises ServiceError for a file that is damaged."""
        if not self._file.exists():
            return ""
        try:
            return str(json.loads(self._file.read_text())["after"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{self._file} is damaged; remove it to begin anew") from error

    def write(self, after: str) -> None:
        """Atomically: a process killed here leaves the old one or the new one."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps({**self._what, "after": after}))
        draft.replace(self._file)

    def forget(self) -> None:
        self._file.unlink(missing_ok=True)


@dataclass(frozen=True)
class Plan:
    """How much there is to do. `objects` will be indexed, and hold `size` bytes."""

    objects: int = 0
    size: int = 0
    skipped: int = 0

    @property
    def listed(self) -> int:
        return self.objects + self.skipped


def count(
    store: ObjectListing, source: Source, after: str, advance: Advance, most: float = float("inf")
) -> Plan:
    """List what comes after a key; it ends early once there are more than `most`."""
    plan = Plan()
    for page in batches(source.entries(store, after), _PAGE):
        taken = [entry for entry in page if source.takes(entry)]
        plan = replace(
            plan,
            objects=plan.objects + len(taken),
            size=plan.size + sum(entry.size for entry in taken),
            skipped=plan.skipped + len(page) - len(taken),
        )
        advance(len(page))
        if plan.objects > most:
            break
    return plan


def feed(
    store: ObjectListing, source: Source, feeder: HintFeeder, cursor: Cursor, advance: Advance
) -> Iterator[ObjectRef]:
    """Send the hints page by page, on from the cursor; yields what was hinted at.

    A process that is killed sends at most one page again, which does no harm.
    """
    for page in batches(source.entries(store, cursor.read()), _PAGE):
        refs = [entry.ref for entry in page if source.takes(entry)]
        feeder.send(refs)
        cursor.write(page[-1].ref.key)
        advance(len(page))
        yield from refs
    cursor.forget()


@dataclass(frozen=True)
class Work:
    """What a picture costs the index function: measured milliseconds, and how it is set up."""

    ms: float
    functions: int
    memory_mb: int


def expected_s(plan: Plan, work: Work) -> float:
    return plan.objects * work.ms / 1000 / work.functions


def expected_cost(plan: Plan, work: Work) -> dict[str, float]:
    """Dollars by service, without free tiers; Qdrant's node is paid for by the month."""
    usd = price_list().usd
    calls = plan.objects / _BATCH
    time_usd = plan.objects * lambda_usd(work.ms, work.memory_mb)
    return {
        "lambda": time_usd + calls * usd("lambda_request"),
        "sqs": 3 * calls * usd("queue_request"),  # sent, received, deleted
        "s3": plan.objects * _READS * usd("bucket_get") + plan.listed / _PAGE * usd("bucket_put"),
    }


def show(plan: Plan, work: Work, out: Console) -> None:
    """What a backfill would take: how many, how long, how much."""
    cost = expected_cost(plan, work)
    table = Table(show_header=False, box=None)
    for name, text in (
        ("objects", f"{plan.objects:,}, and {plan.skipped:,} that can be no pictures"),
        ("bytes", f"{plan.size:,}"),
        ("time", f"{_span(expected_s(plan, work))} with {work.functions} index functions"),
        ("cost", f"$ {sum(cost.values()):.2f}"),
        ("", ", ".join(f"{service} {dollars:.2f}" for service, dollars in cost.items())),
    ):
        table.add_row(f"[dim]{name}[/dim]", text)
    out.print(table)
    out.print(
        f"[dim]at {work.ms:g} ms a picture, {work.memory_mb} MB, x86_64; list prices "
        f"of {price_list().region}, {price_list().as_of}; without Qdrant and free tiers[/dim]",
        soft_wrap=True,
    )


def _span(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"


def workflow_input(source: Source) -> str:
    return json.dumps({"bucket": source.bucket, "prefix": source.prefix, "all": source.takes_all})


def start_workflow(arn: str, source: Source, out: Console) -> None:
    """Raises ServiceError where the state machine was not started."""
    try:
        started = boto3.client("stepfunctions").start_execution(
            stateMachineArn=arn, input=workflow_input(source)
        )
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"the state machine was not started: {error}") from error
    out.print(f"started {started['executionArn']}", soft_wrap=True)


def prepare(
    store: ObjectListing, source: Source, after: str, out: Console, most: float = float("inf")
) -> Plan:
    """Count what is still to be done, with a progress bar."""
    if after:
        out.print(f"going on after {escape(after)}", soft_wrap=True)
    with bar(out) as shown:
        task = shown.add_task("counting", total=None)
        return count(store, source, after, lambda n: shown.advance(task, n), most)


def run(
    store: ObjectListing,
    source: Source,
    feeder: HintFeeder,
    cursor: Cursor,
    anyway: bool,
    out: Console,
) -> list[str]:
    """Feed with a progress bar; returns the keys. On Ctrl-C the cursor stays, and is told.

    Raises ServiceError, which says what to do instead, above a million objects; not `anyway`.
    """
    most = float("inf") if anyway else MOST_OBJECTS
    plan = prepare(store, source, cursor.read(), out, most)
    if plan.objects > most:
        raise ServiceError(
            f"s3://{source.bucket}/{source.prefix} holds more than {MOST_OBJECTS:,} objects: let "
            "the stack feed them (BackfillArn is in its outputs)\n"
            "  aws stepfunctions start-execution --state-machine-arn ARN "
            f"--input {shlex.quote(workflow_input(source))}\n"
            "or the same with --workflow ARN; --anyway feeds them from here"
        )
    with bar(out) as shown:
        task = shown.add_task("hinting", total=plan.listed)
        refs = feed(store, source, feeder, cursor, lambda n: shown.advance(task, n))
        try:
            return [ref.key for ref in refs]
        except KeyboardInterrupt:
            shown.stop()
            out.print(f"stopped after {escape(cursor.read() or 'nothing')}", soft_wrap=True)
            out.print("the same command goes on from there")
            raise


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.0f}/s" if speed else "", style="progress.data.speed")


def bar(out: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=out,
        speed_estimate_period=300.0,  # hints are sent in waves
    )
