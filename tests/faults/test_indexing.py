"""The index equals the bucket after every fault between an upload and its point.

Each test with the mark `fault` is a row of docs/reference/faults.md (`make faults`).
"""

from __future__ import annotations

import os
import random
import signal

import pytest

from likeness.records import State
from tests.fault_proxy import Fault
from tests.faults.service import (
    MAX_RECEIVES,
    QDRANT_FAULTS,
    SLOW_DOWN,
    Bucket,
    Functions,
    notification,
)
from tests.lambda_runtime import ProcessDied, TimedOut
from tests.pictures import HOSTILE, jpeg

MESSAGES_STAY = "the messages stay in the queue; none is acknowledged"
REDELIVERED = "the queue delivers them again"
S3_FAULTS = {
    "throttles: 503 SlowDown": Fault(answer=SLOW_DOWN),
    "resets connections": Fault(reset=True),
    "cuts its response off in the middle": Fault(cut_after=1500),
}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=name,
            marks=pytest.mark.fault(f"Qdrant {name}", seen=MESSAGES_STAY, heals=REDELIVERED),
        )
        for name, fault in QDRANT_FAULTS.items()
    ],
)
@pytest.mark.parametrize("only", [b"", b"PUT"], ids=["every call", "the write"])
def test_nothing_is_acknowledged_while_qdrant_fails(
    only: bytes, fault: Fault, functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(1), b=jpeg(2))
    with functions.qdrant.failing(fault, only=only):
        assert bucket.process_batch() == 0
    assert bucket.waiting() == 2
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=name,
            marks=pytest.mark.fault(f"S3 {name}", seen=MESSAGES_STAY, heals=REDELIVERED),
        )
        for name, fault in S3_FAULTS.items()
    ],
)
def test_nothing_is_acknowledged_while_s3_fails(
    fault: Fault, functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(3), b=jpeg(4))
    with functions.s3.failing(fault):
        assert bucket.process_batch() == 0
    assert bucket.waiting() == 2
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "S3 throttles a few requests", seen="nothing", heals="the SDK retries them after a pause"
)
def test_a_throttled_request_is_repeated_within_the_invocation(
    functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(5))
    with functions.s3.failing(Fault(answer=SLOW_DOWN), times=2):
        assert bucket.process_batch() == 1
    bucket.assert_indexed()


@pytest.mark.fault(
    "S3 is half-open: never answers",
    seen="Lambda ends the function at its time limit; the messages stay in the queue",
    heals="the queue delivers them to a new process",
)
def test_a_timeout_while_waiting_for_s3_acknowledges_nothing(
    functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(6), b=jpeg(7))
    bucket.hint("a")
    with functions.s3.failing(Fault(silent=True)), pytest.raises(TimedOut):
        bucket.process_batch(timeout_s=1)
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "the function is killed, after any one of its calls",
    seen="the messages stay in the queue",
    heals="the queue delivers them to a new process, which continues from what is written",
)
def test_a_process_killed_after_any_of_its_calls_leaves_nothing_half_done(
    functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(10), gone=jpeg(11))
    bucket.deliver()
    killed_after = 0
    while True:
        bucket.put(a=jpeg(20 + killed_after))
        bucket.delete("gone")
        if kill_after(functions, bucket, killed_after + 1):
            break
        killed_after += 1
        bucket.deliver()
        bucket.assert_indexed()
        bucket.put(gone=jpeg(11))
        bucket.deliver()
        bucket.assert_indexed()
    bucket.assert_indexed()
    assert killed_after >= 7  # check two, read one, compare, write, check two: each was interrupted


def kill_after(functions: Functions, bucket: Bucket, calls: int) -> bool:
    """Kill the process after its given number of calls. Returns True if it finished with fewer
    calls, all messages acknowledged.
    """
    remaining = iter(range(calls))

    def count() -> None:
        if next(remaining, None) == calls - 1 and functions.index.pid:
            os.kill(functions.index.pid, signal.SIGKILL)

    proxies = (functions.qdrant, functions.s3)
    for proxy in proxies:
        proxy.on_answer = count
    try:
        while bucket.waiting():
            bucket.process_batch()
    except ProcessDied:
        return False
    finally:
        for proxy in proxies:
            proxy.on_answer = lambda: None
    return True


@pytest.mark.fault(
    "events arrive three times", seen="nothing", heals="an object in sync is not embedded again"
)
def test_events_delivered_three_times_store_one_point(bucket: Bucket) -> None:
    bucket.put(thrice=jpeg(100))
    events = bucket.drain()
    bucket.send(*events * 3)
    bucket.deliver()
    bucket.send(*events * 3)
    bucket.deliver()
    bucket.assert_indexed()
    assert bucket.times_embedded("thrice") == 1


@pytest.mark.fault(
    "events arrive in any order",
    seen="nothing",
    heals="an event only names an object, whose current state is read",
)
def test_events_in_any_order_leave_the_index_equal_to_the_bucket(bucket: Bucket) -> None:
    keys = [f"k{i}" for i in range(4)]
    for version in range(3):
        bucket.put(**{key: jpeg(110 + 4 * version + i) for i, key in enumerate(keys)})
    bucket.delete("k0", "k1")
    bucket.put(k1=jpeg(130))
    events = bucket.drain()
    random.Random(7).shuffle(events)
    bucket.send(*events)
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "an event arrives after later ones were processed",
    seen="nothing",
    heals="the bucket is read as it is now: a deleted image stays deleted",
)
def test_a_late_event_does_not_restore_a_deleted_image(bucket: Bucket) -> None:
    bucket.put(deleted=jpeg(140), replaced=jpeg(141))
    late = bucket.drain()
    bucket.put(replaced=jpeg(142))
    bucket.delete("deleted")
    bucket.deliver()
    bucket.send(*late)
    bucket.deliver()
    bucket.assert_indexed()
    assert bucket.indexed().keys() == {"replaced"}


@pytest.mark.fault(
    "events between others are lost",
    seen="nothing",
    heals="any later event of the object repairs what the lost ones caused",
)
def test_events_lost_in_the_middle_do_not_matter(bucket: Bucket) -> None:
    bucket.put(a=jpeg(150), b=jpeg(151))
    first = bucket.drain()
    bucket.put(a=jpeg(152))
    bucket.delete("b")
    bucket.drain()
    bucket.put(a=jpeg(153), b=jpeg(154))
    bucket.delete("b")
    last = bucket.drain()[-2:]
    bucket.send(*first)
    bucket.deliver()
    bucket.send(*last)
    bucket.deliver()
    bucket.hint("a")
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "an object's last event is lost",
    seen="the object is not found, or found although it was deleted, until the drift function runs",
    heals="the drift function, or `likeness backfill s3://…`, sends a hint on the same queue",
)
def test_a_lost_last_event_is_repaired_by_a_hint(bucket: Bucket) -> None:
    bucket.put(new=jpeg(160), deleted=jpeg(161))
    bucket.drain()
    bucket.hint("deleted")
    bucket.deliver()
    bucket.delete("deleted")
    bucket.drain()
    bucket.hint("new", "deleted")
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "files that are not images, decompression bombs, files far over the limits",
    seen="each is in the index as rejected, with its reason; `GET /v1/status` shows it",
    heals="nothing to do: none is retried, none becomes a dead letter",
)
def test_poison_files_are_rejected_with_a_reason_and_never_become_dead_letters(
    bucket: Bucket,
) -> None:
    files = {name.replace(" ", "-"): data for name, (data, _) in HOSTILE.items()}
    bucket.put(good=jpeg(170), **files)
    bucket.deliver()
    bucket.assert_indexed(rejected=files)
    points = bucket.points()
    for name, (_, reason) in HOSTILE.items():
        point = points[name.replace(" ", "-")]
        assert (point.state, point.reason) == (State.REJECTED, reason)


@pytest.mark.fault(
    "a message that cannot be parsed",
    seen="after ten attempts it waits in the dead-letter queue, which raises an alarm",
    heals="manually: it names no object",
)
def test_an_unreadable_message_becomes_a_dead_letter_and_blocks_no_other(bucket: Bucket) -> None:
    bucket.send("not JSON")
    bucket.put(a=jpeg(180), b=jpeg(181))
    assert bucket.process_batch() == 2
    bucket.deliver()
    assert bucket.dead_letters() == 1
    assert bucket.indexed() == bucket.objects()


@pytest.mark.fault(
    "Qdrant fails repeatedly",
    seen="each function waits five seconds before it tries again, so that queued messages keep "
    "their attempts",
    heals="the waiting batch is indexed",
)
def test_a_batch_waits_for_qdrant_instead_of_failing_at_once(
    functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=jpeg(185))
    with functions.qdrant.failing(
        Fault(reset=True), times=15
    ):  # five calls, of three attempts each
        assert [bucket.process_batch() for _ in range(5)] == [0] * 5
        assert bucket.process_batch() == 1
    bucket.assert_indexed()


@pytest.mark.fault(
    "Qdrant is down for more than an hour, longer than the queue retries",
    seen="the messages wait in the dead-letter queue for 14 days, which raises an alarm",
    heals="a redrive, once Qdrant is back",
)
def test_dead_letters_are_processed_after_a_redrive(functions: Functions, bucket: Bucket) -> None:
    bucket.put(a=jpeg(190), b=jpeg(191))
    bucket.delete("b")
    with functions.qdrant.failing(Fault(reset=True)):
        for _ in range(MAX_RECEIVES - 1):
            bucket.receive_without_deleting()
        assert bucket.process_batch() == 0
    assert bucket.process_batch() == 0  # they are in the dead-letter queue by now
    assert bucket.dead_letters() == 3
    assert bucket.indexed() == {}
    bucket.redrive()
    bucket.deliver()
    bucket.assert_indexed()


@pytest.mark.fault(
    "a flood: thousands of hints for a few objects",
    seen="only the queue's age",
    heals="a batch checks each object once; what is in sync is not embedded again",
)
def test_a_flood_of_hints_embeds_each_object_once(bucket: Bucket) -> None:
    keys = [f"flooded-{i}" for i in range(5)]
    bucket.put(**{key: jpeg(200 + i) for i, key in enumerate(keys)})
    bucket.hint(*keys * 10)
    bucket.send(*[notification(bucket.name, keys * 10)] * 60)
    bucket.deliver()
    bucket.assert_indexed()
    assert [bucket.times_embedded(key) for key in keys] == [1] * 5
