"""Find the cheapest and the fastest memory size and number of threads of both functions.

Both functions run in real processes under Lambda's own runtime client. Lambda gives a function of
1,769 MB one processor, and other sizes a proportional share (AWS Lambda guide, "Configure Lambda
function memory"). Here a control group's CPU quota, in periods of 20 ms, gives a started process
the same share. Where no control group can be created, the process is pinned to whole processors,
and the extra time of a share below one is computed from its CPU time. Qdrant and S3 are local
stand-ins outside the quota. The Qdrant stand-in is written in Python: its own time is subtracted,
and each call counts as `--qdrant-ms` instead.

`likeness cost` reads the file that this script writes.

    python benchmarks/memory.py --json
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.coldstart import API_KEY, INDEX, SEARCH, QdrantTimer, check_search, photo  # noqa: E402
from console.cost import cost_report  # noqa: E402
from console.cost.pricing import Measurements, Run  # noqa: E402
from tests import qdrant_server  # noqa: E402
from tests.lambda_runtime import (  # noqa: E402
    LambdaProcess,
    client,
    http_event,
    local_aws,
    queue_event,
)

MEMORY_MB = (1024, 1280, 1769, 2560, 3538)
THREADS = (1, 2)
VCPU_MB = 1769
PERIOD_US = 20_000
GROUPS = (Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup"))
PHOTOS, BATCH, WARM = 100, 10, 3
TICKS_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=25, help="invocations of each setting")
    parser.add_argument(
        "--qdrant-ms", type=float, default=5.0, help="assumed time of a call to a real Qdrant"
    )
    parser.add_argument("--out", type=Path, default=Path(".likeness/memory.json"))
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    server = qdrant_server.start(api_key=API_KEY)
    with local_aws() as aws, Progress(console=Console(stderr=True)) as progress:
        env = {
            "QDRANT_URL": qdrant_server.url_of(server),
            "QDRANT_API_KEY": API_KEY,
            "AWS_ENDPOINT_URL": aws,
        }
        timer = QdrantTimer(server, arguments.qdrant_ms)
        measured = sweep(env, aws, timer, arguments.repeat, progress)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(measured)))
    cost_report.print_report(measured, Console())
    for name, found in cost_report.costs(measured).items():
        cheapest, fastest = (cost.run for cost in cost_report.best(found))
        print(f"{name}: cheapest {_described(cheapest)}, fastest {_described(fastest)}")
    print(f"wrote {arguments.out}, which `likeness cost` reads")
    if arguments.json:
        print(json.dumps(msgspec.to_builtins(measured)))


def sweep(
    env: dict[str, str], aws: str, qdrant: QdrantTimer, repeat: int, progress: Progress
) -> Measurements:
    uploads = batches(aws)
    query = http_event("POST", "/v1/search", photo(0, 1600, 1200))
    settings = [(memory_mb, threads) for memory_mb in MEMORY_MB for threads in THREADS]
    task = progress.add_task("measuring", total=2 * len(settings))

    def each(handler: str, event: Callable[[], object], images: int) -> list[Sample]:
        samples = []
        for memory_mb, threads in settings:
            limits = {**env, "LIKENESS_THREADS": str(threads)}
            with LambdaProcess(handler, limits, memory_mb) as function:
                samples.append(measure(function, event, qdrant, repeat, memory_mb, threads, images))
            progress.advance(task)
        return samples

    index = each(INDEX, lambda: next(uploads), BATCH)
    search = each(SEARCH, lambda: query, 1)
    how = (
        "control group quota" if control_group_parent() else "pinned processors, computed below one"
    )
    return Measurements(
        f"awslambdaric on {processor()}; processor share by {how}",
        [sample.run for sample in search],
        [sample.run for sample in index],
        search[-1].answer_bytes,
        search[-1].log_bytes,
        index[-1].log_bytes,
        search[-1].qdrant_calls,
        index[-1].qdrant_calls,
        BATCH,
    )


class Sample(NamedTuple):
    """Figures of one setting; bytes and calls are per answer or per image."""

    run: Run
    answer_bytes: int
    log_bytes: int
    qdrant_calls: float


def measure(
    function: LambdaProcess,
    event: Callable[[], object],
    qdrant: QdrantTimer,
    repeat: int,
    memory_mb: int,
    threads: int,
    images: int,
) -> Sample:
    """Warm invocations that process `images` images each."""
    invoke(function, event(), qdrant)
    share = memory_mb / VCPU_MB
    assert function.pid
    with processor_share(function.pid, share) as quota:
        for _ in range(WARM):
            answer_bytes, _ = invoke(function, event(), qdrant)
        logged, called, cpu_s = len(function.log), qdrant.calls, cpu_time_s(function.pid)
        elapsed_ms = sorted(invoke(function, event(), qdrant)[1] / images for _ in range(repeat))
        cpu_ms = (cpu_time_s(function.pid) - cpu_s) * 1000 / repeat / images
    # without a quota: the time that the process would have waited for its processor share
    more_ms = 0.0 if quota else max(0.0, cpu_ms / min(share, 1.0) - cpu_ms)
    run = Run(
        memory_mb,
        threads,
        round(statistics.median(elapsed_ms) + more_ms, 2),
        round(elapsed_ms[int(0.95 * repeat)] + more_ms, 2),
        round(cpu_ms, 2),
        round(function.peak_rss_mib, 1),
    )
    done = repeat * images
    log_bytes = round((len(function.log) - logged) / done)
    return Sample(run, answer_bytes, log_bytes, round((qdrant.calls - called) / done, 2))


def invoke(function: LambdaProcess, event: object, qdrant: QdrantTimer) -> tuple[int, float]:
    """Size of the answer in bytes, and elapsed milliseconds."""
    before_ms, start_s = qdrant.excess_ms, time.perf_counter()
    answer = function.invoke(event)
    elapsed_ms = (time.perf_counter() - start_s) * 1000 - (qdrant.excess_ms - before_ms)
    if "batchItemFailures" in answer:
        if answer["batchItemFailures"]:
            raise SystemExit(f"not indexed: {answer}\n{function.log}")
    else:
        check_search(answer)
    return len(answer.get("body", "")), elapsed_ms


@contextlib.contextmanager
def processor_share(pid: int, share: float) -> Iterator[bool]:
    """Limit a process to `share` processors; yields whether a control group enforces it."""
    parent = control_group_parent()
    if parent is None:
        os.sched_setaffinity(pid, set(range(max(1, round(share)))))
        yield False
        return
    own = parent / f"likeness-{pid}"
    own.mkdir()
    quota_us = round(share * PERIOD_US)
    if (own / "cpu.max").exists():
        (own / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    else:
        (own / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (own / "cpu.cfs_quota_us").write_text(str(quota_us))
    (own / "cgroup.procs").write_text(str(pid))
    try:
        yield True
    finally:
        (parent / "cgroup.procs").write_text(str(pid))
        own.rmdir()


def control_group_parent() -> Path | None:
    """The folder in which a control group (version 1 or 2) with a CPU quota can be created."""
    for parent in GROUPS:
        probe = parent / f"likeness-probe-{os.getpid()}"
        with contextlib.suppress(OSError):
            probe.mkdir()
            found = (probe / "cpu.max").exists() or (probe / "cpu.cfs_quota_us").exists()
            probe.rmdir()
            if found:
                return parent
    return None


def cpu_time_s(pid: int) -> float:
    """CPU time so far (proc(5): fields 14 and 15 of stat, after the name in brackets)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def batches(aws: str) -> Iterator[dict[str, Any]]:
    """Events of photos that were just uploaded, for the same keys in rotation."""
    s3 = client("s3", aws)
    s3.create_bucket(Bucket="photos")
    # with versioning, an object that is uploaded again is a new version, and indexed again
    versioned = {"Status": "Enabled"}
    s3.put_bucket_versioning(Bucket="photos", VersioningConfiguration=versioned)
    photos = [photo(seed, 1600, 1200) for seed in range(BATCH)]
    for number in itertools.count():
        keys = [f"{(number * BATCH + n) % PHOTOS}.jpg" for n in range(BATCH)]
        for key, data in zip(keys, photos, strict=True):
            s3.put_object(Bucket="photos", Key=key, Body=data, ContentType="image/jpeg")
        yield queue_event("photos", keys, sequencer=number + 1)


def processor() -> str:
    found = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return f"{os.cpu_count()} × {found[0] if found else 'an unknown processor'}"


def _described(run: Run) -> str:
    return f"{run.memory_mb} MB with {run.threads} threads"


if __name__ == "__main__":
    main()
