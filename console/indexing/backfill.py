"""Backfill: sends hints for the objects of a bucket, as fast as they are indexed."""

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

from likeness.adapters.sqs import SqsQueue
from likeness.feeding import HintFeeder, batches, may_be_image
from likeness.ports import ObjectListing
from likeness.records import ListedObject, ObjectRef

from ..client import ServiceError
from ..terminal import rate_progress
from .estimate import LISTING_PAGE, Plan

# Above this the state machine of template.yaml sends the hints: a laptop may not stay on so long.
MAX_OBJECTS = 1_000_000
_PAGE = LISTING_PAGE

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Source:
    """What to index. With `include_all`, objects that cannot be images are included."""

    bucket: str
    prefix: str
    include_all: bool = False

    def entries(self, store: ObjectListing, after: str = "") -> Iterator[ListedObject]:
        return store.entries(self.bucket, self.prefix, after)

    def includes(self, entry: ListedObject) -> bool:
        return self.include_all or may_be_image(entry.ref.key, entry.size)


class Cursor:
    """The last key for which a hint was sent, on disk; one for each source and queue."""

    def __init__(self, folder: Path, source: Source, queue_url: str) -> None:
        self._identity = {
            "bucket": source.bucket,
            "prefix": source.prefix,
            "all": source.include_all,
            "queue": queue_url,
        }
        name = hashlib.sha256(json.dumps(self._identity).encode()).hexdigest()[:16]
        self._file = folder / f"backfill-{name}.json"

    def read(self) -> str:
        """The key, empty if nothing was sent yet. Raises ServiceError if the file is damaged."""
        if not self._file.exists():
            return ""
        try:
            return str(json.loads(self._file.read_text())["after"])
        except (ValueError, KeyError, TypeError) as error:
            raise ServiceError(f"{self._file} is damaged; delete it to start again") from error

    def write(self, after: str) -> None:
        """Replace the key atomically: a process killed here leaves the old or the new one."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        draft.write_text(json.dumps({**self._identity, "after": after}))
        draft.replace(self._file)

    def delete(self) -> None:
        self._file.unlink(missing_ok=True)


def open_queue(
    queue_url: str, max_waiting: int, folder: Path, source: Source
) -> tuple[HintFeeder, Cursor]:
    """What sends hints to a queue, and the cursor, in `folder`, of this source and queue."""
    return HintFeeder(SqsQueue(queue_url), max_waiting), Cursor(folder, source, queue_url)


def count(
    store: ObjectListing, source: Source, after: str, advance: Advance, most: float = float("inf")
) -> Plan:
    """Count the objects after a key; stops early once there are more than `most`."""
    plan = Plan()
    for page in batches(source.entries(store, after), _PAGE):
        included = [entry for entry in page if source.includes(entry)]
        plan = replace(
            plan,
            objects=plan.objects + len(included),
            size=plan.size + sum(entry.size for entry in included),
            skipped=plan.skipped + len(page) - len(included),
        )
        advance(len(page))
        if plan.objects > most:
            break
    return plan


def count_with_progress(
    store: ObjectListing, source: Source, after: str, out: Console, most: float = float("inf")
) -> Plan:
    if after:
        out.print(f"continuing after {escape(after)}", soft_wrap=True)
    with rate_progress(out) as progress:
        task = progress.add_task("counting", total=None)
        return count(store, source, after, lambda n: progress.advance(task, n), most)


def send_hints(
    store: ObjectListing, source: Source, feeder: HintFeeder, cursor: Cursor, advance: Advance
) -> Iterator[ObjectRef]:
    """Send hints page by page, from the cursor on; yields their objects.

    A process that is killed repeats one page at most, which does no harm.
    """
    for page in batches(source.entries(store, cursor.read()), _PAGE):
        refs = [entry.ref for entry in page if source.includes(entry)]
        feeder.send(refs)
        cursor.write(page[-1].ref.key)
        advance(len(page))
        yield from refs
    cursor.delete()


def run(
    store: ObjectListing,
    source: Source,
    feeder: HintFeeder,
    cursor: Cursor,
    force: bool,
    out: Console,
) -> list[str]:
    """Send all hints, with a progress bar; returns the keys. On Ctrl-C the cursor stays.

    Above a million objects, unless `force` is set, raises ServiceError, which says how to start
    the state machine instead.
    """
    most = float("inf") if force else MAX_OBJECTS
    plan = count_with_progress(store, source, cursor.read(), out, most)
    if plan.objects > most:
        raise ServiceError(
            f"s3://{source.bucket}/{source.prefix} has more than {MAX_OBJECTS:,} objects: let the "
            "stack's state machine send the hints (its ARN is the output BackfillArn)\n"
            "  aws stepfunctions start-execution --state-machine-arn ARN "
            f"--input {shlex.quote(workflow_input(source))}\n"
            "or repeat this command with --workflow ARN; --force sends them from this machine"
        )
    with rate_progress(out) as progress:
        task = progress.add_task("sending hints", total=plan.listed)
        refs = send_hints(store, source, feeder, cursor, lambda n: progress.advance(task, n))
        try:
            return [ref.key for ref in refs]
        except KeyboardInterrupt:
            progress.stop()
            out.print(f"stopped after {escape(cursor.read() or 'nothing')}", soft_wrap=True)
            out.print("the same command continues from there")
            raise


def workflow_input(source: Source) -> str:
    return json.dumps({"bucket": source.bucket, "prefix": source.prefix, "all": source.include_all})


def start_workflow(arn: str, source: Source, out: Console) -> None:
    """Start the stack's state machine. Raises ServiceError if AWS refuses."""
    try:
        started = boto3.client("stepfunctions").start_execution(
            stateMachineArn=arn, input=workflow_input(source)
        )
    except (BotoCoreError, ClientError) as error:
        raise ServiceError(f"the state machine was not started: {error}") from error
    out.print(f"started {started['executionArn']}", soft_wrap=True)
