"""Replicas of a Qdrant server for tests, behind as many nodes: which write reaches which one when.

As measured with Qdrant 1.19: with `ordering=weak` the node that got a write sends it to the
replicas itself, so two writes through two nodes may reach two replicas in either order. From
`medium` on a leader sends them, one after the other. Each replica judges a write's condition by
what it holds itself. A write is confirmed once every live replica has applied it; one that dies
meanwhile recovers from another when it returns (`write_consistency_factor` is 1).
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from urllib.parse import parse_qsl

from tests.qdrant_engine import COLLECTION, Engine, Refused, alike
from tests.qdrant_strict_mode import DEFAULT_LIMIT

_WRITES = {"PUT /points", "POST /points/delete", "POST /points/batch"}
_READS = {"POST /points", "POST /points/scroll", "POST /points/query/batch", "POST /facet"}


def replicas(count: int, **options: Any) -> list[Engine]:
    """Empty engines for a cluster. `options`: see Engine."""
    return [Engine(replication_factor=count, **options) for _ in range(count)]


class NodeDown(ConnectionError):
    """A dead node: a request to it gets no answer."""


@dataclass(eq=False)
class Update:
    """A write on its way from the node that sends it to the replicas that still wait for it."""

    request: tuple[str, str, Any]
    sender: int
    waiting: set[int]
    results: list[Any] = field(default_factory=list)
    lost: bool = False


class Cluster:
    """As many nodes as replicas: node i holds replica i, and every replica holds every point.

    Writes are applied at once, or, while `held`, one replica at a time by `deliver`.
    """

    def __init__(self, engines: list[Engine], failover: int = 2, lag_s: float = 0.0) -> None:
        """`failover`: the medium writes that get 500 before another leader replaces a dead one.

        `lag_s` passes before a write goes on to the next replica: others may overtake it there.
        """
        self.engines = engines
        self.nodes = [Node(self, number) for number in range(len(engines))]
        self.live = set(range(len(engines)))
        self.held = False
        self._failover = failover
        self._failing = 0
        self._lag_s = lag_s
        self._changed = threading.Condition()
        self._underway: dict[tuple[int, bool], list[Update]] = defaultdict(list)

    def kill(self, number: int) -> None:
        """End a node. What it was sending goes no further, and what is sent to it is lost."""
        with self._changed:
            if self.live == {number}:
                raise ValueError("the last live node: only it holds all that was confirmed")
            if number == max(self.live):
                self._failing = self._failover
            self.live.remove(number)
            for update in self._updates():
                if update.sender == number:
                    update.lost = True
                    update.waiting.clear()
                update.waiting.discard(number)
            self._forget_finished()

    def revive(self, number: int, source: int | None = None) -> None:
        """Start a dead node again: its replica recovers from another, and gets what follows."""
        with self._changed:
            source = min(self.live) if source is None else source
            self.engines[number].copy_from(self.engines[source])
            for update in self._updates():
                if source in update.waiting:
                    update.waiting.add(number)
            self.live.add(number)
            self._failing = 0
            self._changed.notify_all()

    def release(self) -> None:
        """No longer hold writes back."""
        with self._changed:
            self.held = False
            self._changed.notify_all()

    def wait_for_writes(self, count: int) -> None:
        """Wait until so many writes are held back."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(list(self._updates())) >= count, 10)

    def deliveries(self) -> list[tuple[Update, int]]:
        """What may happen next: a write on its way, and a replica that may apply it now.

        The writes that a node sends reach each replica in their order. An ordered one must have
        reached all replicas before the next one is sent to any.
        """
        with self._changed:
            return [
                (update, replica)
                for (_, ordered), updates in self._underway.items()
                for at, update in enumerate(updates[:1] if ordered else updates)
                for replica in sorted(update.waiting, key=lambda it: (it != update.sender, it))
                if not any(replica in earlier.waiting for earlier in updates[:at])
            ]

    def deliver(self, sender: int, replica: int) -> None:
        """Let a replica apply the next write that a node sends to it."""
        for update, waiting in self.deliveries():
            if (update.sender, waiting) == (sender, replica):
                return self.apply(update, replica)
        raise LookupError(f"node {sender} has nothing to send to replica {replica}")

    def apply(self, update: Update, replica: int) -> None:
        """Let a replica apply one of the `deliveries`."""
        with self._changed:
            try:
                update.results.append(self.engines[replica].call(*update.request))
            except Refused as error:
                update.results.append(error)
            update.waiting.discard(replica)
            self._forget_finished()

    def submit(self, node: int, ordering: str, request: tuple[str, str, Any]) -> Update:
        """Send a write on its way to the replicas that are live now."""
        with self._changed:
            sender = self._leader(node, ordering)
            update = Update(request, sender, set(self.live))
            self._underway[sender, ordering != "weak"].append(update)
            self._changed.notify_all()
            return update

    def advance(self, update: Update) -> None:
        """Wait until a write may go on, and let one replica apply it."""
        with self._changed:
            self._changed.wait_for(lambda: not update.waiting or self._next(update) is not None)
            replica = self._next(update)
            if replica is not None:
                self.apply(update, replica)
        time.sleep(self._lag_s)

    def _next(self, update: Update) -> int | None:
        if self.held:
            return None
        return next((replica for each, replica in self.deliveries() if each is update), None)

    def _leader(self, node: int, ordering: str) -> int:
        last = len(self.engines) - 1
        if ordering == "weak":
            return node
        if ordering == "strong" and last in self.live:
            return last
        if ordering == "medium" and not self._failing:
            return max(self.live)
        if ordering == "medium":
            self._failing -= 1
        raise Refused(500, f"Service internal error: the leader for {ordering} ordering is dead")

    def _updates(self) -> Iterator[Update]:
        return chain.from_iterable(self._underway.values())

    def _forget_finished(self) -> None:
        for updates in self._underway.values():
            updates[:] = [update for update in updates if update.waiting]
        self._changed.notify_all()


class Node:
    """One node of a cluster, with the interface of an Engine."""

    def __init__(
        self, cluster: Cluster, number: int, pause: Callable[[Update], None] | None = None
    ) -> None:
        """`pause` is called while a write is on its way; by default the node moves it on."""
        self._cluster = cluster
        self._number = number
        self._pause = pause or cluster.advance

    def call(self, method: str, target: str, body: Any) -> Any:
        self._check_alive()
        path, _, query = target.partition("?")
        options = dict(parse_qsl(query))
        matched = COLLECTION.fullmatch(path)
        route = f"{method} {matched[2] or ''}" if matched else f"{method} {path}"
        if route in _WRITES:
            return self._write(options.get("ordering", "weak"), (method, target, body))
        if route in _READS and "consistency" in options:
            return self._read(route, options["consistency"], (method, target, body))
        if route in _READS or method == "GET":
            return self._engine.call(method, target, body)
        # a change of collections, indexes or aliases: a dead node learns of it when it returns
        return [engine.call(method, target, body) for engine in self._cluster.engines][self._number]

    @property
    def _engine(self) -> Engine:
        return self._cluster.engines[self._number]

    def _write(self, ordering: str, request: tuple[str, str, Any]) -> Any:
        update = self._cluster.submit(self._number, ordering, request)
        while update.waiting:
            self._pause(update)
            self._check_alive()
        self._check_alive()
        if update.lost:
            raise Refused(500, "Service internal error: the leader died")
        if isinstance(update.results[0], Refused):
            raise update.results[0]
        return update.results[0]

    def _read(self, route: str, consistency: str, request: tuple[str, str, Any]) -> Any:
        """What enough replicas hold in one form; points on which they differ are left out.

        Dead replicas count too: without enough live ones there is no answer.
        """
        count = len(self._cluster.engines)
        asked = {"all": count, "majority": count, "quorum": count // 2 + 1}.get(consistency)
        asked = asked or max(1, min(int(consistency), count))
        live = sorted(self._cluster.live, key=lambda number: number != self._number)
        if len(live) < asked:
            raise Refused(500, "Service internal error: too few active replicas")
        needed = asked // 2 + 1 if consistency == "majority" else asked
        engines = [self._cluster.engines[number] for number in live[:asked]]
        return _CONSISTENT[route](engines, needed, *request)

    def _check_alive(self) -> None:
        if self._number not in self._cluster.live:
            raise NodeDown(f"node {self._number} is dead")


def _retrieve(engines: list[Engine], needed: int, *request: Any) -> Any:
    return _agreed([engine.call(*request) for engine in engines], needed)


def _query(engines: list[Engine], needed: int, *request: Any) -> Any:
    answers = [engine.call(*request) for engine in engines]
    found = (
        _agreed([search["points"] for search in searches], needed)
        for searches in zip(*answers, strict=True)
    )
    return [{"points": sorted(points, key=lambda point: -point["score"])} for points in found]


def _scroll(engines: list[Engine], needed: int, method: str, target: str, body: Any) -> Any:
    """A page that lacks a point on which replicas differ says that it is the last one."""
    limit = body.get("limit") or DEFAULT_LIMIT
    one_more = {**body, "limit": limit + 1}
    answers = [engine.call(method, target, one_more)["points"] for engine in engines]
    points = sorted(_agreed(answers, needed), key=lambda point: point["id"])[: limit + 1]
    following = points[limit]["id"] if len(points) > limit else None
    return {"points": points[:limit], "next_page_offset": following}


def _facet(engines: list[Engine], needed: int, *request: Any) -> Any:
    """Counts are added up: no question to ask with a consistency."""
    counts: dict[Any, int] = defaultdict(int)
    for engine in engines:
        for hit in engine.call(*request)["hits"]:
            counts[hit["value"]] += hit["count"]
    return {"hits": [{"value": value, "count": count} for value, count in counts.items()]}


_CONSISTENT: dict[str, Callable[..., Any]] = {
    "POST /points": _retrieve,
    "POST /points/query/batch": _query,
    "POST /points/scroll": _scroll,
    "POST /facet": _facet,
}


def _agreed(answers: list[list[Any]], needed: int) -> list[Any]:
    """The points that so many answers contain in the same form."""
    forms = defaultdict(list)
    for point in chain.from_iterable(answers):
        forms[point["id"]].append(point)
    agreed = (
        next((form for form in same if sum(alike(form, each) for each in same) >= needed), None)
        for same in forms.values()
    )
    return [point for point in agreed if point]
