"""What only the embedded engine must do: keep a folder whole through restarts and kills."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import qdrant_edge as edge

from likeness.adapters.qdrant_embedded import EmbeddedIndex, shared_index
from likeness.adapters.qdrant_layout import Layout
from likeness.errors import ConfigurationError, IndexMissing, IndexUnavailable
from likeness.filters import Schema
from likeness.records import (
    Candidate,
    ImageInfo,
    NearestQuery,
    ObjectRef,
    ObjectState,
    Point,
    State,
    Vector,
    Version,
)

ROOT = Path(__file__).resolve().parents[2]
MODEL, DIM = "0123456789abcdef", 8
COLLECTION = f"images-{MODEL}"
SCHEMA = Schema.declare({"brand": "keyword"})
LAYOUT = Layout("images", SCHEMA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def open_index(folder: Path) -> Iterator[Callable[[], EmbeddedIndex]]:
    """Opens the folder, as often as wanted; the last one is closed at the end."""
    opened: list[EmbeddedIndex] = []

    def reopen(layout: Layout = LAYOUT) -> EmbeddedIndex:
        for index in opened:
            index.close()
        opened.append(EmbeddedIndex(folder, layout))
        return opened[-1]

    yield reopen
    for index in opened:
        index.close()


Opener = Callable[..., EmbeddedIndex]


def vector(seed: int) -> Vector:
    values = np.random.default_rng(seed).standard_normal(DIM).astype(np.float32)
    return values / np.linalg.norm(values)


def live(key: str, seed: int = 0, sequencer: int = 1) -> Point:
    found = ObjectState("e1", "v1", 7, "image/png", 12.5)
    return Point(
        ObjectRef("photos", key),
        State.LIVE,
        Version(sequencer),
        MODEL,
        99.5,
        found,
        ImageInfo("PNG", 4, 3, "ab"),
        meta={"brand": "acme"},
        vector=vector(seed),
    )


def nearest(index: EmbeddedIndex, seed: int, limit: int) -> list[Candidate]:
    [found] = index.nearest([NearestQuery([vector(seed)], limit)])
    return found


def prepared(index: EmbeddedIndex) -> EmbeddedIndex:
    index.prepare(MODEL, DIM)
    return index


def in_another_process(folder: Path, code: str) -> subprocess.Popen[str]:
    """Runs code that finds this module's names, and an open `index`."""
    setup = (
        "from tests.contract.test_embedded_index import *\n"
        f"index = EmbeddedIndex(Path({str(folder)!r}), LAYOUT)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", setup + code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'shared'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


# Restarts


def test_a_reopened_folder_has_its_points_its_alias_and_its_indexes(open_index: Opener) -> None:
    index = prepared(open_index())
    index.write(MODEL, [live(f"{i}.jpg", i) for i in range(20)])
    points, info = index.scroll(100).points, index.info()

    reopened = open_index()
    assert reopened.info() == info
    assert (info.model, info.dim, info.points, info.name) == (MODEL, DIM, 20, COLLECTION)
    assert reopened.scroll(100).points == points
    best = nearest(reopened, 7, 3)[0]
    assert best.point.ref.key == "7.jpg"
    assert best.score == pytest.approx(1, abs=1e-5)
    stored = reopened.retrieve_with_vectors([best.point.id])[best.point.id]
    assert stored.vector is not None
    np.testing.assert_allclose(stored.vector, vector(7), atol=1e-6)


def test_every_declared_key_has_its_index_in_the_folder(open_index: Opener, folder: Path) -> None:
    prepared(open_index()).close()
    shard = edge.EdgeShard.load(str(folder / COLLECTION))
    schema = shard.info().payload_schema
    shard.close()
    assert schema.keys() == LAYOUT.indexes.keys()


def test_keys_declared_later_get_their_index_when_it_is_prepared_again(
    open_index: Opener, folder: Path
) -> None:
    first = prepared(open_index(Layout("images", Schema())))
    first.write(MODEL, [live("a.jpg")])
    again = prepared(open_index())
    wanted = SCHEMA.compile({"must": {"key": "brand", "match": {"value": "acme"}}})
    [found] = again.nearest([NearestQuery([vector(0)], 5, filter=wanted)])
    assert [c.point.ref.key for c in found] == ["a.jpg"]
    again.close()
    shard = edge.EdgeShard.load(str(folder / COLLECTION))
    assert shard.info().payload_schema.keys() == LAYOUT.indexes.keys()
    shard.close()


def test_conditions_hold_against_what_was_written_before_the_restart(open_index: Opener) -> None:
    prepared(open_index()).write(MODEL, [live("a.jpg", sequencer=1 << 70)])
    index = open_index()
    index.write(MODEL, [live("a.jpg", seed=1, sequencer=(1 << 70) - 1)])
    [point] = index.scroll(5).points
    assert point.version == Version(1 << 70)


def test_another_dimension_is_refused_after_a_restart(open_index: Opener) -> None:
    prepared(open_index())
    with pytest.raises(ConfigurationError, match="8 dimensions"):
        open_index().prepare(MODEL, DIM + 1)


def test_a_folder_that_was_never_prepared_has_nothing(open_index: Opener) -> None:
    index = open_index()
    with pytest.raises(IndexMissing):
        index.info()
    with pytest.raises(IndexMissing):
        index.retrieve_payloads(MODEL, [])
    with pytest.raises(IndexMissing):
        index.write(MODEL, [live("a.jpg")])


def test_a_closed_index_refuses_calls(open_index: Opener) -> None:
    index = prepared(open_index())
    index.close()
    index.close()
    for call in (
        index.info,
        lambda: index.write(MODEL, [live("a.jpg")]),
        lambda: nearest(index, 0, 1),
        lambda: index.scroll(1),
        lambda: index.prepare(MODEL, DIM),
    ):
        with pytest.raises(IndexUnavailable, match="closed"):
            call()


# Kills


def test_a_process_killed_right_after_a_write_loses_nothing(
    open_index: Opener, folder: Path
) -> None:
    code = """
index.prepare(MODEL, DIM)
for i in range(10_000):
    index.write(MODEL, [live(f"{i}-{j}", i) for j in range(3)])
    print(i, flush=True)
"""
    for least in (0, 30):
        shutil.rmtree(folder, ignore_errors=True)
        process = in_another_process(folder, code)
        assert process.stdout
        while int(process.stdout.readline()) < least:
            pass
        process.send_signal(signal.SIGKILL)
        # printed before it was killed: these writes had returned, too
        told, _ = process.communicate()
        last = max([least, *map(int, told.split())])

        index = open_index()
        ids = [live(f"{i}-2").id for i in range(last + 1)]
        points = index.retrieve_payloads(MODEL, ids).points
        assert len(points) == last + 1
        found = nearest(index, last, 3)
        assert {candidate.point.ref.key for candidate in found} == {f"{last}-{j}" for j in range(3)}
        index.close()


def test_a_conditional_write_survives_a_kill_atomically(open_index: Opener, folder: Path) -> None:
    process = in_another_process(
        folder,
        """
index.prepare(MODEL, DIM)
index.write(MODEL, [live("a", 1, sequencer=5)])
gone = Point(ObjectRef("photos", "a"), State.GONE, Version(5, 1), MODEL, 1.0)
index.write(MODEL, [gone])
index.write(MODEL, [live("a", 2, sequencer=4)])
os.kill(os.getpid(), signal.SIGKILL)
""",
    )
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [point] = open_index().scroll(5).points
    assert (point.state, point.version) == (State.GONE, Version(5, 1))
    assert nearest(open_index(), 1, 5) == []


@pytest.mark.parametrize(
    "left",
    [[], ["wal"], ["segments"], ["wal", "segments"], ["wal", "edge_config.json"]],
    ids=["nothing", "the log", "the segments", "both", "the log and the settings"],
)
def test_an_incomplete_collection_of_a_killed_process_is_completed(
    open_index: Opener, folder: Path, left: list[str]
) -> None:
    prepared(open_index()).close()
    (folder / "aliases.json").unlink()
    for entry in (folder / COLLECTION).iterdir():
        if entry.name not in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    index = prepared(open_index())
    index.write(MODEL, [live("a.jpg")])
    assert index.info().points == 1
    assert open_index().scroll(5).points[0].ref.key == "a.jpg"


def test_a_process_killed_while_preparing_leaves_a_folder_that_can_be_prepared(
    open_index: Opener, folder: Path
) -> None:
    for wait_s in (0.002, 0.01, 0.03):
        shutil.rmtree(folder, ignore_errors=True)
        process = in_another_process(
            folder,
            f"""
import threading, time
def kill():
    time.sleep({wait_s})
    os.kill(os.getpid(), signal.SIGKILL)
threading.Thread(target=kill).start()
index.prepare(MODEL, DIM)
time.sleep(60)
""",
        )
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        index = prepared(open_index())
        index.write(MODEL, [live("a.jpg")])
        assert [c.point.ref.key for c in nearest(index, 0, 5)] == ["a.jpg"]


def test_a_collection_without_its_alias_gets_it(open_index: Opener, folder: Path) -> None:
    prepared(open_index()).write(MODEL, [live("a.jpg")])
    (folder / "aliases.json").unlink()
    assert prepared(open_index()).info().points == 1


def test_a_draft_left_by_a_killed_process_is_ignored(open_index: Opener, folder: Path) -> None:
    prepared(open_index())
    (folder / "aliases.new").write_text('{"ima')
    (folder / COLLECTION / "likeness.new").write_text("")
    index = prepared(open_index())
    assert index.info().model == MODEL


# One process at a time


def test_a_second_process_fails_while_the_folder_is_open(open_index: Opener, folder: Path) -> None:
    index = prepared(open_index())
    index.write(MODEL, [live("a.jpg")])
    process = in_another_process(
        folder,
        """
for call in (
    lambda: index.prepare(MODEL, DIM),
    lambda: index.info(),
    lambda: index.write(MODEL, [live("b.jpg")]),
    lambda: nearest(index, 0, 1),
    lambda: index.scroll(1),
):
    try:
        call()
        print("no error")
    except IndexUnavailable as error:
        print(error)
""",
    )
    out, _ = process.communicate()
    assert out.splitlines() == ["another process has the embedded index open"] * 5
    assert index.info().points == 1


def test_a_second_process_can_open_the_folder_once_the_first_has_ended(
    open_index: Opener, folder: Path
) -> None:
    process = in_another_process(
        folder,
        """
index.prepare(MODEL, DIM)
index.write(MODEL, [live("a.jpg")])
print("ready", flush=True)
input()
""",
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    index = open_index()
    with pytest.raises(IndexUnavailable, match="another process"):
        index.info()
    process.communicate("\n")
    assert index.info().points == 1


def test_two_processes_that_prepare_at_once_leave_one_whole_collection(
    open_index: Opener, folder: Path
) -> None:
    code = """
print("ready", flush=True)
input()
try:
    index.prepare(MODEL, DIM)
    index.write(MODEL, [live(f"{os.getpid()}.jpg")])
    print(os.getpid(), flush=True)
except IndexUnavailable as error:
    print("refused", flush=True)
input()
"""
    processes = [in_another_process(folder, code) for _ in range(2)]
    for process in processes:
        assert process.stdout
        process.stdout.readline()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("\n")
    wrote = [f"{line}.jpg" for line in told if line != "refused"]
    assert len(wrote) == 1
    assert [point.ref.key for point in prepared(open_index()).scroll(5).points] == wrote


# One object for each folder


def test_a_folder_has_one_index_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one = shared_index(str(tmp_path / "one"), LAYOUT)
    assert shared_index("one", LAYOUT) is one
    assert shared_index(f"{tmp_path}/two/../one/", LAYOUT) is one
    other = shared_index(str(tmp_path / "two"), LAYOUT)
    assert other is not one
    one.close()
    anew = shared_index(str(tmp_path / "one"), LAYOUT)
    assert anew is not one
    prepared(anew)
    anew.close()
    other.close()


def test_threads_that_open_a_folder_at_once_share_its_index(tmp_path: Path) -> None:
    start = threading.Barrier(8)

    def opened(_: int) -> EmbeddedIndex:
        start.wait()
        return prepared(shared_index(str(tmp_path / "index"), LAYOUT))

    with ThreadPoolExecutor(8) as pool:
        [index] = set(pool.map(opened, range(8)))
    index.close()


def test_threads_may_write_and_search_at_once(open_index: Opener) -> None:
    index = prepared(open_index())

    def work(i: int) -> int:
        index.write(MODEL, [live(f"{i}.jpg", i)])
        return len(nearest(index, i, 1)) + len(index.scroll(1).points)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(64))) == {2}
    assert index.info().points == 64


def test_compare_and_set_has_one_winner_among_threads(open_index: Opener) -> None:
    index = prepared(open_index())
    index.write(MODEL, [live("a", sequencer=1)])
    ref = ObjectRef("photos", "a")

    def bump(i: int) -> None:
        point = Point(ref, State.REJECTED, Version(1, 1), MODEL, 1.0, reason=f"r{i}", detail="d")
        index.write(MODEL, [point])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bump, range(16)))
    first = index.retrieve_payloads(MODEL, [ref.point_id]).points[ref.point_id]
    assert first.version == Version(1, 1)
    bump(99)
    assert index.retrieve_payloads(MODEL, [ref.point_id]).points[ref.point_id] == first
