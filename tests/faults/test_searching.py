"""The search function answers within its time limit, whatever its dependencies do.

Each test with the mark `fault` is a row of docs/reference/faults.md (`make faults`).
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.fault_proxy import Fault
from tests.faults.service import (
    QDRANT_FAULTS,
    QDRANT_TIMEOUT_S,
    QUERIES,
    SEARCH_TIMEOUT_S,
    SLOW_DOWN,
    Bucket,
    Functions,
)
from tests.lambda_runtime import http_event
from tests.pictures import encoded, jpeg, textured

ANSWERED_503 = "503 with Retry-After, within the time limit"
LESS_CLAIMED = "verdicts rest on the index, and are `same_item` at the closest"
NEXT_REQUEST = "the next request tries again"


@pytest.fixture
def indexed(bucket: Bucket) -> Bucket:
    bucket.put(a=jpeg(300), b=jpeg(301))
    bucket.deliver()
    return bucket


def finds(functions: Functions, bucket: Bucket) -> bool:
    answer = functions.search_by_image(jpeg(300))
    return answer.status == 200 and ("a", "exact") in [
        (result["key"], result["verdict"]) for result in answer.json["results"]
    ]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            id=name,
            marks=pytest.mark.fault(f"Qdrant {name}", seen=ANSWERED_503, heals=NEXT_REQUEST),
        )
        for name, fault in QDRANT_FAULTS.items()
    ],
)
def test_a_search_is_answered_with_503_while_qdrant_fails(
    fault: Fault, functions: Functions, indexed: Bucket
) -> None:
    assert finds(functions, indexed)
    with functions.qdrant.failing(fault):
        functions.search_by_image(jpeg(300)).assert_retry_later("index-unavailable")
    assert finds(functions, indexed)


def test_the_function_is_up_but_not_ready_while_qdrant_is_down(functions: Functions) -> None:
    with functions.qdrant.failing(Fault(reset=True)):
        health = functions.call(http_event("GET", "/v1/health"))
        ready = functions.call(http_event("GET", "/v1/ready"))
    assert health.status == 200
    ready.assert_retry_later("index-unavailable")


@pytest.mark.fault(
    "Qdrant is slow, but within the time limit of a call",
    seen="a slower answer",
    heals=NEXT_REQUEST,
)
def test_a_slow_qdrant_only_makes_searches_slower(functions: Functions, indexed: Bucket) -> None:
    with functions.qdrant.failing(Fault(wait_s=QDRANT_TIMEOUT_S / 3)):
        assert finds(functions, indexed)


@pytest.mark.fault("Qdrant fails occasionally", seen="nothing", heals="a call is tried three times")
def test_a_search_succeeds_despite_two_failures(functions: Functions, indexed: Bucket) -> None:
    assert finds(functions, indexed)
    with functions.qdrant.failing(Fault(reset=True), times=2):
        assert finds(functions, indexed)


@pytest.mark.fault(
    "Qdrant fails repeatedly",
    seen="503 at once; Retry-After says when the next call is let through",
    heals="after five seconds one request is let through, and closes the circuit",
)
def test_the_circuit_opens_and_closes_again(functions: Functions, indexed: Bucket) -> None:
    with functions.qdrant.failing(Fault(reset=True)):
        for _ in range(5):
            functions.search_by_image(jpeg(300)).assert_retry_later("index-unavailable")
        requests = functions.qdrant.requests
        time.sleep(1)
        refused = functions.search_by_image(jpeg(300))
        refused.assert_retry_later("index-unavailable")
    assert functions.qdrant.requests == requests
    remaining_s = int(refused.headers["retry-after"])
    assert remaining_s <= 4  # one of the five seconds has passed
    time.sleep(remaining_s)
    assert finds(functions, indexed)


@pytest.mark.parametrize(
    ("fault", "timeout_s", "slug"),
    [
        pytest.param(
            Fault(answer=SLOW_DOWN),
            SEARCH_TIMEOUT_S,
            "store-unavailable",
            id="throttles",
            marks=pytest.mark.fault(
                "S3 throttles: 503 SlowDown, while a search names an object",
                seen=ANSWERED_503,
                heals=NEXT_REQUEST,
            ),
        ),
        pytest.param(
            Fault(silent=True),
            2.0,
            "unavailable",
            id="half-open",
            marks=pytest.mark.fault(
                "S3 is half-open: never answers, while a search names an object",
                seen=ANSWERED_503,
                heals=NEXT_REQUEST,
            ),
        ),
    ],
)
def test_a_search_by_key_is_answered_with_503_while_s3_fails(
    fault: Fault, timeout_s: float, slug: str, functions: Functions, indexed: Bucket
) -> None:
    indexed.s3.put_object(Bucket=QUERIES, Key="unindexed", Body=jpeg(300))
    search = http_event("POST", "/v1/search", b'{"key": "unindexed"}', "application/json")
    with functions.s3.failing(fault):
        functions.call(search, timeout_s).assert_retry_later(slug)
    assert functions.call(search).status == 200


@pytest.mark.parametrize(
    ("fault", "skipped"),
    [
        pytest.param(
            Fault(answer=SLOW_DOWN),
            [],
            id="throttles",
            marks=pytest.mark.fault(
                "S3 throttles: 503 SlowDown, while a search compares pixels",
                seen=LESS_CLAIMED,
                heals=NEXT_REQUEST,
            ),
        ),
        pytest.param(
            Fault(silent=True),
            ["pixels"],
            id="half-open",
            marks=pytest.mark.fault(
                "S3 is half-open: never answers, while a search compares pixels",
                seen=f"{LESS_CLAIMED}, after two seconds, and `skipped` names pixels",
                heals=NEXT_REQUEST,
            ),
        ),
    ],
)
def test_a_search_claims_less_while_s3_fails(
    fault: Fault, skipped: list[str], functions: Functions, bucket: Bucket
) -> None:
    bucket.put(a=encoded(textured(300)))
    bucket.deliver()
    query = encoded(textured(300), "JPEG", quality=90)
    with functions.s3.failing(fault):
        hurt = functions.search_by_image(query).json
    healthy = functions.search_by_image(query).json
    assert [said(hurt), said(healthy)] == [("a", "same_item", "index"), ("a", "copy", "pixels")]
    # throttled reads are repeated, which may take longer than anybody waits for
    assert hurt["skipped"] == skipped or not skipped
    assert healthy["skipped"] == []


def said(answer: dict[str, Any]) -> tuple[str, str, str]:
    first = answer["results"][0]
    return first["key"], first["verdict"], first["rests_on"]
