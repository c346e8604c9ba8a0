"""`likeness index s3://…`: nothing is left out, whenever it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from console.client import ServiceError
from console.indexing import backfill
from console.indexing.backfill import Cursor, Plan, Source, Work
from functions.index.events import parse_message
from likeness.feeding import HintFeeder
from likeness.records import ObjectRef
from tests.fake_bucket import FakeBucket
from tests.lambda_runtime import CREDENTIALS, REGION, client

LIKENESS = (sys.executable, "-c", "from console.app import main; main()")
QUEUE = "https://sqs.test/queue"


class Queue:
    """Keeps what it took; `stop_at` raises instead of taking that page."""

    def __init__(self, stop_at: int | None = None, how: type[BaseException] = OSError) -> None:
        self.sent: list[str] = []
        self._calls = 0
        self._stop_at = stop_at
        self._how = how

    def send(self, refs: Iterable[ObjectRef]) -> int:
        self._calls += 1
        if self._calls == self._stop_at:
            raise self._how
        taken = [ref.key for ref in refs]
        self.sent += taken
        return len(taken)

    def depth(self) -> int:
        return 0


@pytest.fixture(autouse=True)
def pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "_PAGE", 3)


@pytest.fixture
def bucket() -> FakeBucket:
    bucket = FakeBucket()
    for i in range(10):
        bucket.put(f"in/{i}.jpg", b"12345")
    for key, data in {
        "in/": b"",
        "in/empty.jpg": b"",
        "in/notes.txt": b"x",
        "out.jpg": b"x",
    }.items():
        bucket.put(key, data)
    return bucket


PICTURES = [f"in/{i}.jpg" for i in range(10)]
SOURCE = Source("photos", "in/")


def feed(bucket: FakeBucket, queue: Queue, folder: Path, source: Source = SOURCE) -> list[str]:
    quiet = Console(quiet=True)
    cursor = Cursor(folder, source, QUEUE)
    return backfill.run(bucket, source, HintFeeder(queue), cursor, False, quiet)


def test_pictures_are_hinted_at_once_and_what_can_be_none_is_skipped_and_counted(
    bucket: FakeBucket, tmp_path: Path
) -> None:
    queue = Queue()
    assert feed(bucket, queue, tmp_path) == queue.sent == PICTURES
    assert backfill.count(bucket, SOURCE, "", lambda n: None) == Plan(10, 50, skipped=3)
    everything = Source("photos", "in/", takes_all=True)
    assert len(feed(bucket, Queue(), tmp_path, everything)) == 13


@pytest.mark.parametrize("how", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("stop_at", range(1, 6))
def test_a_stopped_backfill_goes_on_where_the_queue_had_taken_all(
    bucket: FakeBucket, tmp_path: Path, stop_at: int, how: type[BaseException]
) -> None:
    first, second = Queue(stop_at, how), Queue()
    try:
        feed(bucket, first, tmp_path)
    except how:
        feed(bucket, second, tmp_path)
    assert first.sent + second.sent == PICTURES
    assert list(tmp_path.iterdir()) == []


def test_a_backfill_killed_before_its_cursor_is_written_repeats_one_page(
    bucket: FakeBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(cursor: Cursor, after: str) -> None:
        raise SystemExit

    queue = Queue()
    with monkeypatch.context() as patch:
        patch.setattr(Cursor, "write", killed)
        with pytest.raises(SystemExit):
            feed(bucket, queue, tmp_path)
    feed(bucket, queue, tmp_path)
    assert queue.sent == PICTURES[:2] + PICTURES


def test_each_bucket_prefix_and_queue_has_a_cursor_of_its_own(tmp_path: Path) -> None:
    sources = [
        SOURCE,
        Source("photos", "in"),
        Source("photo", "in/"),
        Source("photos", "in/", True),
    ]
    cursors = [Cursor(tmp_path, source, queue) for source in sources for queue in (QUEUE, "other")]
    for at, cursor in enumerate(cursors):
        cursor.write(f"{at} ü")
    assert [cursor.read() for cursor in cursors] == [f"{at} ü" for at in range(len(cursors))]
    assert Cursor(tmp_path, Source("photos", "x" * 1000), QUEUE).read() == ""


def test_a_damaged_cursor_is_named(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path, SOURCE, QUEUE)
    cursor.write("a")
    [file] = tmp_path.iterdir()
    for text in ("{", "[]", "{}"):
        file.write_text(text)
        with pytest.raises(ServiceError, match="remove it to begin anew"):
            cursor.read()


def test_above_a_million_the_command_for_the_state_machine_is_told_and_nothing_sent(
    bucket: FakeBucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill, "MOST_OBJECTS", 4)
    queue = Queue()
    with pytest.raises(ServiceError) as told:
        feed(bucket, queue, tmp_path)
    assert queue.sent == []
    wanted = '{"bucket": "photos", "prefix": "in/", "all": false}'
    assert f"aws stepfunctions start-execution --state-machine-arn ARN --input '{wanted}'" in str(
        told.value
    )
    backfill.run(
        bucket,
        SOURCE,
        HintFeeder(queue),
        Cursor(tmp_path, SOURCE, QUEUE),
        True,
        Console(quiet=True),
    )
    assert queue.sent == PICTURES


def test_time_and_cost_are_those_of_the_arithmetic() -> None:
    work = Work(ms=100, functions=10, memory_mb=1024)
    plan = Plan(objects=1_000_000, size=0, skipped=0)
    assert backfill.expected_s(plan, work) == pytest.approx(10_000)
    cost = backfill.expected_cost(plan, work)
    # 100,000 GB-seconds and 100,000 calls; 300,000 of SQS; 3 million reads and 1,000 / page lists
    assert cost["lambda"] == pytest.approx(1.667 + 0.02, abs=0.01)
    assert cost["sqs"] == pytest.approx(0.12, abs=0.001)
    assert cost["s3"] == pytest.approx(1.2 + 1_000_000 / 3 * 0.000005, abs=0.001)


# The command, against a real S3 and SQS


class Aws:
    """A bucket and a queue of this test's own."""

    def __init__(self, url: str, folder: Path) -> None:
        self.s3, self.sqs = client("s3", url), client("sqs", url)
        self.bucket = f"photos-{uuid.uuid4().hex[:8]}"
        self.s3.create_bucket(Bucket=self.bucket)
        self.queue: str = self.sqs.create_queue(QueueName=self.bucket)["QueueUrl"]
        self.folder = folder
        self.env = {
            **os.environ,
            **CREDENTIALS,
            "AWS_ENDPOINT_URL": url,
            "AWS_DEFAULT_REGION": REGION,
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "LIKENESS_QUEUE_URL": self.queue,
        }

    def put(self, *keys: str) -> None:
        for key in keys:
            self.s3.put_object(Bucket=self.bucket, Key=key, Body=b"x" * 7)

    def command(self, *options: str) -> Sequence[str]:
        source = f"s3://{self.bucket}/in/"
        return [*LIKENESS, "index", source, "--data", str(self.folder / "data"), *options]

    def index(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*options), env=self.env, capture_output=True, text=True, check=False
        )

    def received(self) -> set[str]:
        keys: set[str] = set()
        while messages := self.sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10).get(
            "Messages"
        ):
            keys |= {h.ref.key for m in messages for h in parse_message(m["Body"])}
        return keys


@pytest.fixture
def bare(aws: str, tmp_path: Path) -> Iterator[Aws]:
    bare = Aws(aws, tmp_path)
    yield bare
    bare.s3.close()
    bare.sqs.close()


def test_a_dry_run_says_how_many_how_long_how_much_and_sends_nothing(bare: Aws) -> None:
    bare.put("in/a.jpg", "in/b ü+.png", "in/c.txt", "out.jpg")
    said = bare.index("--dry-run", "--ms", "600000")
    assert said.returncode == 0, said.stderr
    for shown in ("2, and 1 that can be no pictures", "14", "4 minutes", "$ 0.03", "lambda 0.03"):
        assert shown in said.stdout
    assert bare.received() == set()


def test_a_backfill_interrupted_while_it_waits_for_room_is_finished_by_the_same_command(
    bare: Aws,
) -> None:
    bare.put("in/a.jpg", "in/b ü+.png")
    bare.sqs.send_message(QueueUrl=bare.queue, MessageBody=json.dumps({"Event": "s3:TestEvent"}))
    process = subprocess.Popen(
        bare.command("--max-waiting", "1"),
        env=bare.env,
        stdout=subprocess.PIPE,
        text=True,
        # a test that runs in the background would hand on that interrupts are ignored
        preexec_fn=partial(  # noqa: PLW1509 - no threads run here
            signal.signal, signal.SIGINT, signal.default_int_handler
        ),
    )
    assert process.stdout is not None
    said = ""
    while "2/?" not in said:  # counted
        said += process.stdout.read(1)
    time.sleep(1.5)  # into the feeder's pause
    process.send_signal(signal.SIGINT)
    said += process.communicate()[0]
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert bare.received() == set()
    done = bare.index()
    assert done.returncode == 0, done.stderr
    assert "hinted at 2" in done.stdout
    assert bare.received() == {"in/a.jpg", "in/b ü+.png"}


def test_without_a_queue_it_is_told_which_setting_is_missing(bare: Aws) -> None:
    del bare.env["LIKENESS_QUEUE_URL"]
    said = bare.index()
    assert said.returncode == 1
    assert "LIKENESS_QUEUE_URL is not set" in said.stderr


def test_the_help_says_how_live_events_are_spared(capfd: Any) -> None:
    subprocess.run([*LIKENESS, "index", "--help"], env={**os.environ, "COLUMNS": "200"}, check=True)
    said = " ".join(capfd.readouterr().out.split())
    assert "no faster than they are worked off" in said
