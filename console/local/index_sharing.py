"""The local service's index, for commands in other processes: the embedded engine takes one only.

Calls are pickled, over loopback, between processes that know a key; only this machine's user can
read it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from likeness.errors import IndexUnavailable, LikenessError
from likeness.ports import VectorIndex


@contextlib.contextmanager
def shared(index: VectorIndex, key: bytes) -> Iterator[int]:
    """Answer calls while this lasts; yields the port."""
    stop = threading.Event()
    with Listener(("127.0.0.1", 0), authkey=key) as listener:
        threading.Thread(target=_accept, args=(listener, index, stop), daemon=True).start()
        try:
            yield int(listener.address[1])
        finally:
            stop.set()


def _accept(listener: Listener, index: VectorIndex, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            connection = listener.accept()
        # a caller without the key, one that went away, or the listener was closed
        except (AuthenticationError, EOFError, OSError):
            continue
        threading.Thread(target=_answer, args=(connection, index), daemon=True).start()


def _answer(connection: Connection, index: VectorIndex) -> None:
    with connection, contextlib.suppress(EOFError, OSError):
        model, name, arguments, options = connection.recv()
        view = index if model is None else index.for_model(model)
        try:
            connection.send((None, getattr(view, name)(*arguments, **options)))
        except LikenessError as error:
            connection.send((error, None))


class RunningIndex:
    """The VectorIndex that a running service shares."""

    def __init__(self, port: int, key: bytes, model: str | None = None) -> None:
        self._port = port
        self._key = key
        self._model = model

    def for_model(self, model: str) -> RunningIndex:
        return RunningIndex(self._port, self._key, model)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                with Client(("127.0.0.1", self._port), authkey=self._key) as connection:
                    connection.send((self._model, name, arguments, options))
                    error, value = connection.recv()
            except (OSError, EOFError, AuthenticationError) as gone:
                raise IndexUnavailable("the local service does not answer") from gone
            if error:
                raise error
            return value

        return call
