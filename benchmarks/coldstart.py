"""Cold start of the search and index functions, and the peak memory of both.

`ratio`: time from process start to the first search answer, under Lambda's own runtime client,
divided by the time from process start until onnxruntime is imported and the same model has been
loaded and run once. Whatever exceeds 1 is the cost of everything else: imports, decoding, HTTP,
Qdrant. `single_ratio` is the same on one processor, where nothing can be imported while the network
is loaded. All are medians of alternating runs, with .pyc files present, as in the layers. Qdrant
and S3 are local stand-ins. The Qdrant stand-in is written in Python: its own time is subtracted,
and each call counts as `--qdrant-ms` instead.

`restored_ms`: what a caller waits for with SnapStart, without AWS's own restore time: the hooks,
which read Qdrant's key from Secrets Manager, and the first answer. `warm_ms`: the second answer.

`index_start_ms`: process start of the index function until it could take its first message, which
SnapStart hides. `index_ratio` is over the same floor.

    python benchmarks/coldstart.py --repeat 7 --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from tests import qdrant_server  # noqa: E402 - a script has its own folder on its path
from tests.lambda_runtime import (  # noqa: E402
    MODEL_DIR,
    LambdaProcess,
    client,
    environment,
    http_event,
    local_aws,
    queue_event,
)
from tests.pictures import encoded, picture  # noqa: E402

INDEX, SEARCH = "functions.index.app.handler", "functions.search.app.handler"
API_KEY = "benchmark"
SEARCHES, PHOTOS, BATCH = 20, 30, 10
LIMITS_MIB = {"search": 300, "index": 350}
PACKAGES = 8

# The same session options as likeness.embedding.
FLOOR = """
import sys
import onnxruntime as ort
import numpy as np
options = ort.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.log_severity_level = 3
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = ort.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
[node] = session.get_inputs()
shape = [size if isinstance(size, int) else 1 for size in node.shape]
tensor = np.full(shape, 0.5, np.float32)
session.run(None, {node.name: tensor})
print("done", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7, help="runs of each kind")
    parser.add_argument(
        "--qdrant-ms", type=float, default=5.0, help="assumed time of a call to a real Qdrant"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    server = qdrant_server.start(api_key=API_KEY)
    qdrant = QdrantTimer(server, arguments.qdrant_ms)
    env = {"QDRANT_URL": qdrant_server.url_of(server), "QDRANT_API_KEY": API_KEY}
    query = http_event("POST", "/v1/search", photo(0, 640, 480))
    with local_aws() as aws:
        index_peak_mib = measure_index(env, aws)

        def time_cold_start() -> float:
            with LambdaProcess(SEARCH, env) as function:
                return time_search(function, query, qdrant)

        def time_index_start() -> float:
            with LambdaProcess(INDEX, env, snap_start=True) as function:
                start_s = time.perf_counter()
                function.snapshot()
                return (time.perf_counter() - start_s) * 1000

        search_ms, floor_ms = alternate(time_cold_start, time_floor, arguments.repeat)
        index_ms, index_floor_ms = alternate(time_index_start, time_floor, arguments.repeat)
        with one_processor():
            single_search_ms, single_floor_ms = alternate(
                time_cold_start, time_floor, arguments.repeat
            )
        with_secret = {
            **env,
            "AWS_ENDPOINT_URL": aws,
            "QDRANT_API_KEY_SECRET_ARN": create_secret(aws),
        }
        restored_ms, warm_ms = measure_restored(with_secret, query, qdrant, arguments.repeat)
    result = {
        "ratio": round(search_ms / floor_ms, 3),
        "single_ratio": round(single_search_ms / single_floor_ms, 3),
        "search_ms": round(search_ms, 1),
        "floor_ms": round(floor_ms, 1),
        "restored_ms": round(restored_ms, 1),
        "warm_ms": round(warm_ms, 1),
        "index_start_ms": round(index_ms, 1),
        "index_ratio": round(index_ms / index_floor_ms, 3),
        "search_peak_mib": round(measure_search(env, query), 1),
        "index_peak_mib": round(index_peak_mib, 1),
    }
    print_report(result, import_times(env), arguments.repeat)
    if arguments.json:
        print(json.dumps(result))


def alternate(
    one: Callable[[], float], other: Callable[[], float], repeat: int
) -> tuple[float, float]:
    """Medians in ms of two measurements that take turns, after one warm-up of each."""
    one(), other()
    pairs = [(one(), other()) for _ in range(repeat)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """Processes started inside this block have one processor, as a function of 1,769 MB has."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def time_search(function: LambdaProcess, query: dict[str, object], qdrant: QdrantTimer) -> float:
    before_ms, start_s = qdrant.excess_ms, time.perf_counter()
    answer = function.invoke(query)
    elapsed_ms = (time.perf_counter() - start_s) * 1000
    check_search(answer)
    return elapsed_ms - (qdrant.excess_ms - before_ms)


def measure_restored(
    env: dict[str, str], query: dict[str, object], qdrant: QdrantTimer, repeat: int
) -> tuple[float, float]:
    """Medians in ms: the hooks and the first answer after a restore, and the second answer."""

    def once() -> tuple[float, float]:
        with LambdaProcess(SEARCH, env, snap_start=True) as function:
            function.snapshot()
            function.restore()
            first_ms = time_search(function, query, qdrant)
            return first_ms, time_search(function, query, qdrant)

    once()
    first, second = zip(*(once() for _ in range(repeat)), strict=True)
    return statistics.median(first), statistics.median(second)


def create_secret(aws: str) -> str:
    """Store Qdrant's key in Secrets Manager, as on AWS; the secret's ARN."""
    secrets = client("secretsmanager", aws)
    arn: str = secrets.create_secret(Name="qdrant", SecretString=API_KEY)["ARN"]
    return arn


def time_floor() -> float:
    command = [sys.executable, "-c", FLOOR, str(MODEL_DIR / "image.onnx")]
    start_s = time.perf_counter()
    with subprocess.Popen(command, env=environment(SEARCH), stdout=subprocess.PIPE) as process:
        assert process.stdout
        line = process.stdout.readline()
        elapsed_ms = (time.perf_counter() - start_s) * 1000
    if line != b"done\n":
        raise SystemExit("the onnxruntime process of the floor failed")
    return elapsed_ms


def measure_search(env: dict[str, str], query: dict[str, object]) -> float:
    with LambdaProcess(SEARCH, env) as function:
        for _ in range(SEARCHES):
            check_search(function.invoke(query))
        return function.peak_rss_mib


def measure_index(env: dict[str, str], aws: str) -> float:
    photos = [photo(seed, 4000, 3000) for seed in range(3)]
    keys = [f"{i}.jpg" for i in range(PHOTOS)]
    s3 = client("s3", aws)
    with LambdaProcess(INDEX, {**env, "AWS_ENDPOINT_URL": aws}) as function:
        s3.create_bucket(Bucket="photos")
        for i, key in enumerate(keys):
            s3.put_object(
                Bucket="photos", Key=key, Body=photos[i % len(photos)], ContentType="image/jpeg"
            )
        for start in range(0, PHOTOS, BATCH):
            answer = function.invoke(queue_event("photos", keys[start : start + BATCH]))
            if answer["batchItemFailures"]:
                raise SystemExit(f"not indexed: {answer}\n{function.log}")
        return function.peak_rss_mib


class QdrantTimer:
    """Counts the calls to the tests' Qdrant server, and how much slower it is than a real one."""

    def __init__(self, server: ThreadingHTTPServer, real_ms: float) -> None:
        self.calls, self.excess_ms = 0, 0.0
        handler = server.RequestHandlerClass
        assert issubclass(handler, qdrant_server.Handler)
        original = handler.respond

        def respond(request: qdrant_server.Handler, body: bytes) -> tuple[int, bytes]:
            start_s = time.perf_counter()
            try:
                return original(request, body)
            finally:
                self.calls += 1
                self.excess_ms += (time.perf_counter() - start_s) * 1000 - real_ms

        handler.respond = respond  # type: ignore[method-assign]


def check_search(answer: dict[str, str]) -> None:
    if answer["statusCode"] != 200 or not json.loads(answer["body"])["results"]:
        raise SystemExit(f"the search failed: {answer}")


def photo(seed: int, width: int, height: int) -> bytes:
    """A JPEG with enough noise to be as large as a camera's file."""
    noise = np.random.default_rng(seed).integers(-9, 9, (height, width, 1), np.int16)
    pixels = (np.asarray(picture(seed, width, height)) + noise).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=90)


def import_times(env: dict[str, str]) -> list[tuple[str, float]]:
    """Import time in ms of each top-level package, largest first.

    The time of a package excludes the packages that it imports, so the times add up.
    """
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import functions.search.app"],
        env={**environment(SEARCH), **env},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    own_us: Counter[str] = Counter()
    for microseconds, module in re.findall(
        r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr
    ):
        package = module.partition(".")[0]
        own_us["standard library" if package in sys.stdlib_module_names else package] += int(
            microseconds
        )
    return [(package, us / 1000) for package, us in own_us.most_common()]


def print_report(result: dict[str, float], times: list[tuple[str, float]], repeat: int) -> None:
    print(f"Cold start, median of {repeat}")
    print(f"  first search answer   {result['search_ms']:7.0f} ms")
    print(f"  onnxruntime and model {result['floor_ms']:7.0f} ms")
    print(f"  ratio                 {result['ratio']:7.2f}")
    print(f"  ... on one processor  {result['single_ratio']:7.2f}")
    print(f"  restored              {result['restored_ms']:7.0f} ms (then {result['warm_ms']:.0f})")
    print(f"  index function        {result['index_start_ms']:7.0f} ms", end="")
    print(f" (ratio {result['index_ratio']:.2f}, to its first message)")
    print("Peak memory")
    for name, limit_mib in LIMITS_MIB.items():
        print(f"  {name:<21} {result[f'{name}_peak_mib']:7.0f} MiB (limit {limit_mib})")
    print("Import time of the search function by package, without the packages it imports")
    rest_ms = sum(ms for _, ms in times[PACKAGES:])
    for package, ms in [*times[:PACKAGES], (f"{len(times[PACKAGES:])} more", rest_ms)]:
        print(f"  {package:<21} {ms:7.0f} ms")


if __name__ == "__main__":
    main()
