"""The command's client reports what the service answered."""

from __future__ import annotations

import json

import pytest

from console.client import Client, ServiceError
from tests.fault_server import Answer, serve


def test_the_reason_of_a_503_is_shown_without_waiting_for_another_answer() -> None:
    detail = "the index was made by model a, but this service embeds with b"
    unavailable = Answer(503, json.dumps({"detail": detail}).encode(), {"Retry-After": "5"})
    with serve([unavailable]) as server, pytest.raises(ServiceError, match=detail):
        Client(server.url).ready()
