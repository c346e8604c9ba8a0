"""Invocations of the index function, interleaved call by call over a bucket in memory.

Real handler steps (the Indexer with the real decoder and model) run in threads of which only one
runs at a time: before every call to the store or the index, the scheduler decides which worker
continues and which is killed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from likeness.indexing import Indexer
from likeness.records import Hint
from tests.fake_bucket import FakeBucket
from tests.pictures import png

MODEL = Path(__file__).parent / "models" / "fixed-filters"
KEYS = ("a.png", "b c+%.png")
CONTENTS = (*(png(seed, 24, 18) for seed in range(4)), b"no picture")


class Killed(BaseException):
    """The process ends here: nothing after this line runs, nothing is acknowledged."""


class Gate:
    """Lets a worker's thread run from one external call to the next."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._error: BaseException | None = None

    def pause(self) -> None:
        """Called by the worker before each call. Raises what the scheduler wants to happen."""
        self._stopped.release()
        self._go.acquire()
        if self._error:
            raise self._error

    def finish(self) -> None:
        self._stopped.release()

    def step(self, error: BaseException | None = None) -> None:
        """Called by the scheduler: let the worker go on, and wait until it stops again."""
        self._error = error
        self._go.release()
        self._stopped.acquire()

    def wait(self) -> None:
        self._stopped.acquire()


class Gated:
    """An object whose every call waits at the gate first."""

    def __init__(self, inner: Any, gate: Gate) -> None:
        self._inner = inner
        self._gate = gate

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._inner, name)

        def gated(*arguments: Any, **options: Any) -> Any:
            self._gate.pause()
            return call(*arguments, **options)

        return gated


class Worker:
    """One invocation of a function. `work` gets the gate, and returns what it acknowledges."""

    def __init__(self, batch: list[Hint], work: Callable[[Gate], Collection[Hint]]) -> None:
        self.batch = batch
        self.gate = Gate()
        self.acknowledged: Collection[Hint] = ()
        self.ended = False
        self._thread = threading.Thread(target=self._run, args=(work,))
        self._thread.start()
        self.gate.wait()

    def _run(self, work: Callable[[Gate], Collection[Hint]]) -> None:
        try:
            self.acknowledged = work(self.gate)
        except Killed:
            pass
        finally:
            self.ended = True
            self.gate.finish()

    @property
    def unacknowledged(self) -> list[Hint]:
        return [hint for hint in self.batch if hint not in self.acknowledged]


@dataclass
class World:
    """A bucket, its queue, and the invocations that are under way at the same time.

    `indexer` makes the Indexer of a worker from its gate. The queue delivers a message again
    minutes later: not before `has_settled` says of its worker that nothing of it is still on its
    way. Operations take a key and two numbers.
    """

    bucket: FakeBucket
    indexer: Callable[[Gate], Indexer]
    jitter: int
    has_settled: Callable[[Worker], bool] = lambda worker: True
    queue: list[Hint] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    ended: list[Worker] = field(default_factory=list)

    def put(self, key: str, content: int, shift: int) -> None:
        self.bucket.put(key, CONTENTS[content % len(CONTENTS)])
        self.deliver(shift)

    def remove(self, key: str, _: int, shift: int) -> None:
        self.bucket.remove(key)
        self.deliver(shift)

    def undelete(self, key: str, _: int, shift: int) -> None:
        self.bucket.undelete(key)
        self.deliver(shift)

    def purge(self, key: str, _: int, shift: int) -> None:
        self.bucket.purge(key)
        self.deliver(shift)

    def duplicate(self, _: str, at: int, __: int) -> None:
        if self.queue:
            self.queue.append(self.queue[at % len(self.queue)])

    def backfill(self, key: str, _: int, __: int) -> None:
        self.queue.append(Hint(self.bucket.ref(key)))

    def start(self, _: str, at: int, shift: int) -> None:
        """A batch of one to three messages from anywhere in the queue: SQS keeps no order."""
        if self.queue and len(self.workers) < 3:
            at %= len(self.queue)
            batch = self.queue[at : at + shift + 2]
            del self.queue[at : at + shift + 2]
            self.invoke(batch)

    def advance(self, _: str, steps: int, which: int) -> None:
        if self.workers:
            worker = self.workers[which % len(self.workers)]
            for _ in range(steps + 1):
                if self.step(worker):
                    return

    def kill(self, _: str, __: int, which: int) -> None:
        if self.workers:
            self.step(self.workers[which % len(self.workers)], Killed())

    def deliver(self, shift: int) -> None:
        """Sequencers may be slightly out of order."""
        for event in self.bucket.events:
            sequencer = max(1, event.sequencer + shift * self.jitter)
            self.queue.append(Hint(event.ref, sequencer))
        self.bucket.events.clear()

    def invoke(self, batch: list[Hint]) -> Worker:
        def work(gate: Gate) -> list[Hint]:
            outcomes = self.indexer(gate).reconcile(batch)
            # a process may also be killed after its last write, before it acknowledges the messages
            gate.pause()
            return [hint for hint in batch if not outcomes[hint.ref].error]

        worker = Worker(batch, work)
        self.workers.append(worker)
        return worker

    def step(self, worker: Worker, error: BaseException | None = None) -> bool:
        """Returns whether the worker has ended; its unacknowledged hints are queued again."""
        worker.gate.step(error)
        if worker.ended:
            self.workers.remove(worker)
            self.ended.append(worker)
            self.redeliver()
        return worker.ended

    def redeliver(self) -> None:
        for worker in filter(self.has_settled, list(self.ended)):
            self.ended.remove(worker)
            self.queue += worker.unacknowledged

    def stop(self) -> None:
        """Kill all workers."""
        for worker in list(self.workers):
            self.step(worker, Killed())

    def drain(self) -> None:
        """Process everything in the worst order: paused workers continue last, when no message is
        left to correct their writes.
        """
        while self.queue or self.workers:
            while self.queue:
                worker = self.invoke([self.queue.pop()])
                while not self.step(worker):
                    pass
            while self.workers and not self.step(self.workers[0]):
                pass


# Relative frequencies: invocations that overlap with changes find faults.
WEIGHTS: dict[Callable[[World, str, int, int], None], int] = {
    World.put: 4,
    World.remove: 1,
    World.undelete: 1,
    World.purge: 1,
    World.duplicate: 1,
    World.backfill: 2,
    World.start: 5,
    World.advance: 5,
    World.kill: 1,
}
