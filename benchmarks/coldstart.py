"""Cold start of the search function, and the memory that both functions take.

`ratio`: process start → first search answer, under Lambda's own runtime client, over process start
→ onnxruntime imported, the same model loaded and run once. What is above 1 is what all else costs:
imports, decoding, HTTP, Qdrant. `single_ratio` is the same on one processor, where nothing can be
imported while the network is loaded. All are medians of alternating runs, with .pyc files present,
as layers have them. Qdrant and S3 are local stand-ins. The time that Qdrant's, which is written in
Python, thinks is taken off, and `--qdrant-ms` is put in its place for each call.

`restored_ms`: what a caller waits for with SnapStart beside AWS's own restoring: the hooks, which
read Qdrant's key from Secrets Manager, and the first answer; `warm_ms`: the second one.

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
[taken] = session.get_inputs()
shape = [size if isinstance(size, int) else 1 for size in taken.shape]
tensor = np.full(shape, 0.5, np.float32)
session.run(None, {taken.name: tensor})
print("done", flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=7, help="runs of each kind")
    parser.add_argument(
        "--qdrant-ms", type=float, default=5.0, help="what a call to a real Qdrant takes"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    server = qdrant_server.start(api_key=API_KEY)
    qdrant = StandIn(server, arguments.qdrant_ms)
    env = {"QDRANT_URL": qdrant_server.url_of(server), "QDRANT_API_KEY": API_KEY}
    query = http_event("POST", "/v1/search", photo(0, 640, 480))
    with local_aws() as aws:
        index_peak_mib = measure_index(env, aws)

        def cold() -> float:
            with LambdaProcess(SEARCH, env) as function:
                return time_search(function, query, qdrant)

        search_ms, floor_ms = alternate(cold, time_floor, arguments.repeat)
        with one_processor():
            single_search_ms, single_floor_ms = alternate(cold, time_floor, arguments.repeat)
        kept = {**env, "AWS_ENDPOINT_URL": aws, "QDRANT_API_KEY_SECRET_ARN": secret(aws)}
        restored_ms, warm_ms = measure_restored(kept, query, qdrant, arguments.repeat)
    result = {
        "ratio": round(search_ms / floor_ms, 3),
        "single_ratio": round(single_search_ms / single_floor_ms, 3),
        "search_ms": round(search_ms, 1),
        "floor_ms": round(floor_ms, 1),
        "restored_ms": round(restored_ms, 1),
        "warm_ms": round(warm_ms, 1),
        "search_peak_mib": round(measure_search(env, query), 1),
        "index_peak_mib": round(index_peak_mib, 1),
    }
    show(result, import_split(env), arguments.repeat)
    if arguments.json:
        print(json.dumps(result))


def alternate(
    one: Callable[[], float], other: Callable[[], float], repeat: int
) -> tuple[float, float]:
    """Medians in ms, after a warm-up of each."""
    one(), other()
    pairs = [(one(), other()) for _ in range(repeat)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


@contextlib.contextmanager
def one_processor() -> Iterator[None]:
    """What is started meanwhile has one processor, as a function of 1,769 MB has."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def time_search(function: LambdaProcess, query: dict[str, object], qdrant: StandIn) -> float:
    before_ms, start_s = qdrant.too_slow_ms, time.perf_counter()
    answer = function.invoke(query)
    took_ms = (time.perf_counter() - start_s) * 1000
    check(answer)
    return took_ms - (qdrant.too_slow_ms - before_ms)


def measure_restored(
    env: dict[str, str], query: dict[str, object], qdrant: StandIn, repeat: int
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


def secret(aws: str) -> str:
    """The ARN of a secret that holds Qdrant's key, as on AWS."""
    secrets = client("secretsmanager", aws)
    arn: str = secrets.create_secret(Name="qdrant", SecretString=API_KEY)["ARN"]
    return arn


def time_floor() -> float:
    command = [sys.executable, "-c", FLOOR, str(MODEL_DIR / "image.onnx")]
    start_s = time.perf_counter()
    with subprocess.Popen(command, env=environment(SEARCH), stdout=subprocess.PIPE) as process:
        assert process.stdout
        line = process.stdout.readline()
        took_ms = (time.perf_counter() - start_s) * 1000
    if line != b"done\n":
        raise SystemExit("the floor did not run to its end")
    return took_ms


def measure_search(env: dict[str, str], query: dict[str, object]) -> float:
    with LambdaProcess(SEARCH, env) as function:
        for _ in range(SEARCHES):
            check(function.invoke(query))
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


class StandIn:
    """Counts the calls to the Qdrant of the tests, and by how much it is slower than a real one."""

    def __init__(self, server: ThreadingHTTPServer, real_ms: float) -> None:
        self.calls, self.too_slow_ms = 0, 0.0
        handler = server.RequestHandlerClass
        assert issubclass(handler, qdrant_server.Handler)
        original = handler.respond

        def respond(request: qdrant_server.Handler, body: bytes) -> tuple[int, bytes]:
            start_s = time.perf_counter()
            try:
                return original(request, body)
            finally:
                self.calls += 1
                self.too_slow_ms += (time.perf_counter() - start_s) * 1000 - real_ms

        handler.respond = respond  # type: ignore[method-assign]


def check(answer: dict[str, str]) -> None:
    if answer["statusCode"] != 200 or not json.loads(answer["body"])["results"]:
        raise SystemExit(f"not a search result: {answer}")


def photo(seed: int, width: int, height: int) -> bytes:
    """A JPEG with as much noise as makes it as large as a camera's."""
    noise = np.random.default_rng(seed).integers(-9, 9, (height, width, 1), np.int16)
    pixels = (np.asarray(picture(seed, width, height)) + noise).clip(0, 255).astype(np.uint8)
    return encoded(Image.fromarray(pixels), "JPEG", quality=90)


def import_split(env: dict[str, str]) -> list[tuple[str, float]]:
    """Own import time in ms of each top-level package's modules, largest first; they add up."""
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


def show(result: dict[str, float], split: list[tuple[str, float]], repeat: int) -> None:
    print(f"Cold start, median of {repeat}")
    print(f"  first search answer   {result['search_ms']:7.0f} ms")
    print(f"  onnxruntime and model {result['floor_ms']:7.0f} ms")
    print(f"  ratio                 {result['ratio']:7.2f}")
    print(f"  ... on one processor  {result['single_ratio']:7.2f}")
    print(f"  restored              {result['restored_ms']:7.0f} ms (then {result['warm_ms']:.0f})")
    print("Peak memory")
    for name, limit_mib in LIMITS_MIB.items():
        print(f"  {name:<21} {result[f'{name}_peak_mib']:7.0f} MiB (limit {limit_mib})")
    print("Import time of the search function, each package without those it imports")
    rest_ms = sum(ms for _, ms in split[PACKAGES:])
    for package, ms in [*split[:PACKAGES], (f"{len(split[PACKAGES:])} more", rest_ms)]:
        print(f"  {package:<21} {ms:7.0f} ms")


if __name__ == "__main__":
    main()
