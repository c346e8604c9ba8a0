"""Every replica equals the bucket, although writes through different nodes overtake each other.

As test_indexing_reconciliation.py, with the adapter for servers in front of a cluster: only its
sockets are replaced. Besides the workers' calls, the scheduler decides which replica applies which
write, which answer is lost, and when a node dies or comes back. Each schedule is a number: the same
one is the same schedule. Others than those of `make test`:

    LIKENESS_SCHEDULES=0:20000 .venv/bin/python -m pytest -q \
        tests/unit/test_indexing_reconciliation_replicas.py
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import pytest

from likeness.adapters.circuit_breaker import CircuitBreaker
from likeness.adapters.connections import Reply
from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_transport import Transport
from likeness.drift import TOMBSTONE_S, Difference, DriftConfig, DriftDetector
from likeness.embedding import Embedder
from likeness.errors import Unavailable
from likeness.filters import Schema
from likeness.indexing import Indexer, IndexerConfig
from likeness.proof.verdicts import Calibration
from likeness.records import Hint, NearestQuery, Payload
from likeness.settings import Limits
from likeness.sync import settings_digest
from tests.calibrations import calibration_of
from tests.fake_bucket import FakeBucket
from tests.qdrant_cluster import Cluster, Node, Update, replicas
from tests.qdrant_engine import Refused, alike
from tests.reconciliation import CONTENTS, KEYS, MODEL, WEIGHTS, Gate, Gated, Worker, World

Operation = Callable[["Replicated", str, int, int], None]

LAYOUT = Layout("images", Schema())
SETTINGS = settings_digest(Schema(), Limits())
FIRST, END = map(int, os.environ.get("LIKENESS_SCHEDULES", "0:300").split(":"))
ABSENT: Mapping[str, Any] = {"payload": {"state": "gone"}, "vector": {}}
# The share of schedules in which duplicates are looked for.
COMPARING = 0.3
# Invocations that acknowledge nothing, one after the other, although nothing disturbs them.
MAX_FRUITLESS = 10


class Socket:
    """In the place of the adapter's connections: each request goes to one node of the cluster.

    Requests for points wait at the gate, before they are sent and while they are answered.
    """

    def __init__(self, cluster: Cluster, gate: Gate | None, choose: Callable[[], int]) -> None:
        self.writes: list[Update] = []
        self.waits = False
        self._cluster = cluster
        self._gate = gate
        self._choose = choose

    def exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        deadline_s: float,
    ) -> Reply:
        if "/points" in path:
            self._pause()
        node = Node(self._cluster, self._choose(), self._wait)
        try:
            result = node.call(method, path, json.loads(body) if body else None)
        except Refused as error:
            return _reply(error.status, {"status": {"error": str(error)}})
        return _reply(200, result if path == "/" else {"result": result})

    def _wait(self, update: Update) -> None:
        if update not in self.writes:
            self.writes.append(update)
        self._pause()

    def _pause(self) -> None:
        if self._gate:
            self.waits = True
            try:
                self._gate.pause()
            finally:
                self.waits = False


def _reply(status: int, answer: Any) -> Reply:
    return Reply(status, json.dumps(answer).encode())


class Server:
    """Replicas with an empty collection, and one index for all workers: each thread of theirs has
    a socket of its own.
    """

    def __init__(self, count: int, embedder: Embedder) -> None:
        self.engines = replicas(count)
        self._threads = threading.local()
        never_open = CircuitBreaker(itertools.count(0, 10**6).__next__)
        transport = Transport(
            "http://cluster", timeout_s=600, breaker=never_open, sleep=lambda seconds: None
        )
        transport._pool = self  # type: ignore[assignment]
        self._index = QdrantIndex(transport, LAYOUT)
        index = self.connect(Socket(Cluster(self.engines), None, lambda: 0))
        index.prepare(embedder.fingerprint, embedder.dim)

    def connect(self, socket: Socket) -> QdrantIndex:
        """The index, in this thread over this socket."""
        self._threads.socket = socket
        return self._index

    def exchange(self, *request: Any) -> Reply:
        reply: Reply = self._threads.socket.exchange(*request)
        return reply

    def clear(self) -> None:
        """As a connection pool: there is nothing to close."""


@dataclass
class Replicated:
    """A world whose index is a cluster. Operations take a key and two numbers, as the World's."""

    bucket: FakeBucket
    server: Server
    cluster: Cluster
    embedder: Embedder
    chance: Random
    calibration: Calibration | None = None
    now_s: float = 1e9
    sockets: dict[Gate, Socket] = field(default_factory=dict)

    def __post_init__(self) -> None:
        jitter = self.chance.choice([0, 40])
        self.world = World(self.bucket, self.indexer, jitter, self.has_settled)

    def twins(self, key: str, content: int, shift: int) -> None:
        """One event is delivered to two functions at the same moment."""
        self.world.put(key, content, shift)
        hint = self.world.queue.pop()
        both = [self.world.invoke([hint]) for _ in range(2)]
        for worker in both * self.chance.randint(0, 6):
            if worker in self.world.workers:
                self.world.step(worker)

    def pass_on(self, _: str, count: int, __: int) -> None:
        """Some replicas apply some of the writes that are on their way."""
        for _ in range(count + 1):
            self.pass_one_on()

    def pass_one_on(self) -> bool:
        deliveries = self.cluster.deliveries()
        if deliveries:
            self.cluster.apply(*self.chance.choice(deliveries))
            self.world.redeliver()
        return bool(deliveries)

    def lose_answers(self, _: str, count: int, which: int) -> None:
        """A worker's connections break, one or several in a row; what it had sent goes on."""
        for _ in range(count + 1):
            waiting = [each for each in self.world.workers if self.sockets[each.gate].waits]
            if waiting:
                self.world.step(waiting[which % len(waiting)], ConnectionResetError())

    def kill_node(self, _: str, __: int, ___: int) -> None:
        """Any node; where writes are on their way, one that is sending them."""
        if len(self.cluster.live) == len(self.cluster.engines):
            senders = [update.sender for update, _ in self.cluster.deliveries()]
            self.cluster.kill(self.chance.choice(senders or sorted(self.cluster.live)))
            self.world.redeliver()

    def revive_node(self, *_: object) -> None:
        for dead in set(range(len(self.cluster.engines))) - self.cluster.live:
            self.cluster.revive(dead, source=self.chance.choice(sorted(self.cluster.live)))

    def check_drift(self, _: str, __: int, ___: int) -> None:
        """A month later: no function of then still runs, and tombstones are old enough."""
        self.world.stop()
        while self.pass_one_on():
            pass
        self.now_s += 2 * TOMBSTONE_S
        self.world.workers.append(Worker([], self._check_drift))

    def drain(self) -> None:
        """Process everything in the worst order, as World.drain; what nobody waits for any more
        arrives last.
        """
        self.revive_node()
        fruitless = 0
        while fruitless < MAX_FRUITLESS:
            if self.world.queue:
                worker = self.world.invoke([self.world.queue.pop()])
                self.finish(worker)
                fruitless = 0 if worker.acknowledged else fruitless + 1
            elif self.world.workers:
                self.finish(self.world.workers[0])
            elif not self.pass_one_on():
                return
        raise AssertionError("a message is never acknowledged")

    def indexer(self, gate: Gate) -> Indexer:
        return Indexer(
            Gated(self.bucket, gate),
            self._open_index(gate),
            self.embedder,
            IndexerConfig(parallel=1, calibration=self.calibration),
            clock=self.clock,
        )

    def has_settled(self, worker: Worker) -> bool:
        return not any(update.waiting for update in self.sockets[worker.gate].writes)

    def clock(self) -> float:
        self.now_s += 0.001
        return self.now_s

    def _check_drift(self, gate: Gate) -> list[Hint]:
        def repair(found: list[Difference]) -> None:
            self.world.queue += [Hint(difference.ref) for difference in found]

        config = DriftConfig(self.bucket.name, "", SETTINGS, parallel=1)
        index = self._open_index(gate)
        gate.pause()
        with contextlib.suppress(Unavailable):  # it runs again next week
            DriftDetector(self.bucket, index, config, repair, clock=self.clock).run()
        return []

    def _open_index(self, gate: Gate) -> QdrantIndex:
        self.sockets[gate] = Socket(self.cluster, gate, self._any_node)
        return self.server.connect(self.sockets[gate])

    def _any_node(self) -> int:
        return self.chance.randrange(len(self.cluster.nodes))

    def finish(self, worker: Worker) -> None:
        while worker in self.world.workers:
            if self.has_settled(worker) or not self.sockets[worker.gate].waits:
                self.world.step(worker)
            else:
                self.pass_one_on()


def in_every_world(operation: Callable[[World, str, int, int], None]) -> Operation:
    return lambda replicated, *arguments: operation(replicated.world, *arguments)


_WEIGHTS: dict[Operation, int] = {
    **{in_every_world(operation): weight for operation, weight in WEIGHTS.items()},
    Replicated.twins: 4,
    Replicated.pass_on: 6,
    Replicated.lose_answers: 1,
    Replicated.kill_node: 2,
    Replicated.revive_node: 2,
    Replicated.check_drift: 1,
}
OPERATIONS = [operation for operation, weight in _WEIGHTS.items() for _ in range(weight)]


def run(seed: int, servers: Mapping[int, Server], embedder: Embedder) -> Replicated:
    """A whole schedule, up to the moment when nothing is left to do."""
    chance = Random(seed)
    replicated = empty(servers[chance.choice([2, 3])], embedder, chance)
    steps = [
        (chance.choice(OPERATIONS), KEYS[chance.random() < 0.25], chance.randint(0, 5))
        for _ in range(chance.randint(6, 24))
    ]
    try:
        for operation, key, number in steps:
            operation(replicated, key, number, chance.randint(-1, 1))
        replicated.drain()
    finally:
        replicated.world.stop()
    return replicated


def empty(server: Server, embedder: Embedder, chance: Random) -> Replicated:
    for engine in server.engines:
        engine.clear()
    cluster = Cluster(server.engines, failover=chance.randint(0, 4))
    cluster.held = True
    bucket = FakeBucket(versioned=chance.random() < 0.5)
    calibration = calibration_of(embedder.spec) if chance.random() < COMPARING else None
    return Replicated(bucket, server, cluster, embedder, chance, calibration)


def assert_in_sync(replicated: Replicated) -> None:
    name = LAYOUT.collection(replicated.embedder.fingerprint)
    points = [engine.read(name) for engine in replicated.cluster.engines]
    for replica in points:
        for key in KEYS:
            point = replica.get(replicated.bucket.ref(key).point_id, ABSENT)
            assert_equal(replicated.bucket, key, **point)
    assert all(each.keys() == points[0].keys() for each in points), "a replica lacks a point"
    for point_id, point in points[0].items():
        assert all(alike(point, each[point_id]) for each in points), "replicas differ"


def assert_equal(bucket: FakeBucket, key: str, payload: Payload, vector: Any, **_: object) -> None:
    """A point of one replica is what the bucket holds."""
    ref = bucket.ref(key)
    state = bucket.head(ref)
    if state is None:
        assert payload["state"] == "gone", "a deleted object is found"
        return
    assert payload["state"] != "gone", "an object is missing"
    stored = (payload["etag"], payload["version_id"])
    assert stored == (state.etag, state.version_id), "an earlier version is found"
    is_image = bucket.read(ref, state.etag, 10**9).data != b"no picture"
    assert payload["state"] == ("live" if is_image else "rejected")
    assert payload.get("compared", 1), "an image was not compared with the others"
    assert bool(vector) == is_image


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder(MODEL)


@pytest.fixture(scope="module")
def servers(embedder: Embedder) -> dict[int, Server]:
    """By the number of their replicas."""
    return {count: Server(count, embedder) for count in (2, 3)}


@pytest.mark.fault(
    "the same with two or three replicas: an event is delivered to two functions at the same "
    "moment, writes go through different nodes and reach the replicas in any order that Qdrant "
    "permits, answers are lost, nodes die and come back: 300 random schedules",
    seen="messages stay in the queue while a node is dead",
    heals="ordered writes; what replicas hold differently is written once more",
)
@pytest.mark.timeout(120 + END - FIRST)
def test_every_replica_equals_the_bucket_after_any_schedule(
    servers: dict[int, Server], embedder: Embedder
) -> None:
    wrong: dict[int, str] = {}
    for seed in range(FIRST, END):
        try:
            assert_in_sync(run(seed, servers, embedder))
        except AssertionError as error:
            wrong[seed] = str(error)
    assert not wrong


@pytest.mark.parametrize("count", [2, 3])
def test_objects_whose_events_all_came_twice_are_not_found_once_they_are_deleted(
    servers: dict[int, Server], embedder: Embedder, count: int
) -> None:
    replicated = empty(servers[count], embedder, Random(1))
    world, bucket = replicated.world, replicated.bucket
    keys = [f"{number}.png" for number in range(60)]
    for at, key in enumerate(keys):
        bucket.put(key, CONTENTS[at % 4])
        twins = [world.invoke(bucket.events) for _ in range(2)]
        bucket.events = []
        for worker in twins:
            while not replicated.sockets[worker.gate].writes:
                world.step(worker)
        while replicated.pass_one_on():
            pass
        for worker in twins:
            replicated.finish(worker)
    assert found(replicated, embedder) == [set(keys)] * count
    for key in keys:
        bucket.remove(key)
    world.deliver(0)
    replicated.drain()
    assert found(replicated, embedder) == [set()] * count


def found(replicated: Replicated, embedder: Embedder) -> list[set[str]]:
    """The keys that a search through each node finds."""
    query = NearestQuery([np.full(embedder.dim, embedder.dim**-0.5, np.float32)], limit=100)
    cluster, keys = replicated.cluster, []
    for node in range(len(cluster.nodes)):
        index = replicated.server.connect(Socket(cluster, None, lambda node=node: node))
        keys.append({hit.point.ref.key for hit in index.nearest([query])[0]})
    return keys
