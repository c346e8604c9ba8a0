"""Verdicts that pixels give, in searches and comparisons, and what is claimed without pixels."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from PIL import Image

from functions.search import search_schemas
from functions.search.gateway import create_handler
from likeness.proof.pixel_proof import Edit
from likeness.proof.verdicts import Basis, Level
from tests.pictures import encoded, textured
from tests.service import BUNDLED, ROOT, Service

PICTURES = 6
LAST = PICTURES - 1
COPIES = (95, 90, 85, 80, 75)
WHOLE = [0, 0, 1, 1]


@pytest.fixture
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Six pictures, and five copies of the last one."""
    with Service(tmp_path_factory.mktemp("index"), BUNDLED) as service:
        service.fill({f"{n}.png": encoded(textured(n)) for n in range(PICTURES)})
        service.fill({f"copy {quality}.jpg": copy(LAST, quality) for quality in COPIES})
        yield service


def copy(n: int = 1, quality: int = 88) -> bytes:
    return encoded(textured(n), "JPEG", quality=quality)


def image(data: bytes, **fields: Any) -> dict[str, Any]:
    return {"image": base64.b64encode(data).decode(), **fields}


def search(service: Service, data: bytes, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = service.search(**image(data), **options).json()
    return answer


def first(service: Service, data: bytes, **options: Any) -> dict[str, Any]:
    best: dict[str, Any] = search(service, data, **options)["results"][0]
    return best


def compare(service: Service, one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    answer = service.compare(one, other)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def said(result: Mapping[str, Any]) -> tuple[str, str]:
    return result["verdict"], result["rests_on"]


def test_a_precise_search_compares_the_pixels_of_what_it_suspects(service: Service) -> None:
    answer = search(service, copy())
    best, *others = answer["results"]
    assert (best["key"], *said(best)) == ("1.png", "copy", "pixels")
    assert isinstance(best["edits"], list)
    assert {result["rests_on"] for result in others} == {"index"}
    assert answer["took_ms"]["pixels"] > 0
    assert answer["skipped"] == []
    logged = json.loads(service.recorded[-1])["shown"]
    assert [result.get("rests_on") for result in logged[:2]] == ["pixels", None]


def test_a_fast_search_reads_nothing_and_claims_less(service: Service) -> None:
    answer = search(service, copy(), rerank="fast")
    best = answer["results"][0]
    assert (best["key"], *said(best), best["edits"]) == ("1.png", "same_item", "index", [])
    assert "pixels" not in answer["took_ms"]


def test_a_search_without_reranking_has_no_verdict_and_reads_nothing(service: Service) -> None:
    answer = search(service, copy(), rerank="none")
    assert not answer["results"][0].keys() & {"verdict", "rests_on", "edits"}
    assert "pixels" not in answer["took_ms"]


def test_the_first_three_suspected_results_of_a_page_are_settled(service: Service) -> None:
    for offset in (0, 2):
        results = search(service, copy(LAST), limit=4, offset=offset)["results"]
        assert [result["rests_on"] for result in results] == ["pixels"] * 3 + ["index"]
    scores = [result["rerank_score"] for result in results]
    assert scores == sorted(scores, reverse=True)


def test_equal_bytes_need_no_pixels(service: Service) -> None:
    answer = search(service, encoded(textured(1)))
    best = answer["results"][0]
    assert (*said(best), best["edits"]) == ("exact", "bytes", [])
    assert "pixels" not in answer["took_ms"]


def test_an_indexed_query_is_read_from_the_bucket(service: Service) -> None:
    for source in ({"id": service.id("copy 90.jpg")}, {"key": "copy 90.jpg"}):
        assert said(service.search(**source).json()["results"][0]) == ("copy", "pixels")


def test_a_query_without_pixels_claims_the_same_item_at_most(service: Service) -> None:
    token = search(service, copy())["query_id"]
    best = service.search(query_id=token).json()["results"][0]
    assert (best["key"], *said(best)) == ("1.png", "same_item", "index")


def test_a_box_is_settled_by_the_pixels_of_that_part(service: Service) -> None:
    """Two pictures side by side: of the whole canvas each is a part, in its box it is a copy."""
    canvas = Image.new("RGB", (640, 240))
    canvas.paste(textured(1))
    canvas.paste(textured(2), (320, 0))
    best = first(service, encoded(canvas), box=[0.5, 0, 1, 1], explain=True)
    assert (best["key"], *said(best)) == ("2.png", "copy", "pixels")
    assert best["explain"]["transform"] == pytest.approx([2, 0, -1, 0, 1, 0, 0, 0, 1], abs=0.03)


@pytest.mark.parametrize("change", ["removed", "replaced", "damaged"])
def test_a_result_that_changed_since_it_was_indexed_keeps_a_verdict(
    service: Service, change: str
) -> None:
    _change(service, change)
    best = first(service, copy())
    assert (best["key"], *said(best)) == ("1.png", "same_item", "index")


def _change(service: Service, change: str) -> None:
    """To the object, but not to the index."""
    if change == "removed":
        service.bucket.remove("1.png")
    else:
        service.bucket.put("1.png", {"replaced": copy(2), "damaged": b"no picture"}[change])


def test_a_bucket_that_is_down_costs_no_answer(service: Service) -> None:
    service.bucket.down = True
    assert said(first(service, copy())) == ("same_item", "index")
    compared = compare(service, {"id": service.id("1.png")}, {"id": service.id("2.png")})
    assert compared["rests_on"] == "index"
    assert compared["notes"] == [
        "first: the bucket could not be read",
        "second: the bucket could not be read",
    ]


def test_where_time_is_short_pixels_are_skipped_and_named(service: Service) -> None:
    event = json.loads((ROOT / "events" / "api_search_image.json").read_text())
    event["body"] = base64.b64encode(copy()).decode()
    answers = [
        json.loads(create_handler(service.app)(event, _context(left_ms))["body"])
        for left_ms in (850, 60_000)
    ]
    assert [answer["skipped"] for answer in answers] == [["pixels"], []]
    assert [said(answer["results"][0]) for answer in answers] == [
        ("same_item", "index"),
        ("copy", "pixels"),
    ]


def _context(left_ms: int) -> Any:
    class Context:
        aws_request_id = "request-1"

        @staticmethod
        def get_remaining_time_in_millis() -> int:
            return left_ms

    return Context()


def test_an_explanation_has_the_transform_and_the_differences(service: Service) -> None:
    best, other, *_ = search(service, copy(), explain=True)["results"]
    explain = best["explain"]
    assert explain["transform"] == pytest.approx([1, 0, 0, 0, 1, 0, 0, 0, 1], abs=0.02)
    assert explain["agreeing"] > 90
    assert explain["differences"] == other["explain"]["differences"] == []
    assert not other["explain"].keys() & {"transform", "agreeing"}


def test_two_pictures_are_compared_by_their_pixels(service: Service) -> None:
    small = image(encoded(textured(1).resize((200, 150)), "JPEG", quality=88))
    for one, other in (
        (image(copy()), {"id": service.id("1.png")}),
        (image(copy()), {"key": "1.png"}),
        (small, image(encoded(textured(1)))),
        (image(copy(), box=WHOLE), {"key": "1.png", "box": WHOLE}),
    ):
        there, back = compare(service, one, other), compare(service, other, one)
        assert said(there) == said(back) == ("copy", "pixels")
        assert "notes" not in there
        assert there["explain"]["agreeing"] > 80
        assert there["probability"] == back["probability"]


def test_different_pictures_have_nothing_in_common(service: Service) -> None:
    compared = compare(service, {"key": "1.png"}, {"key": "2.png"})
    assert compared["rests_on"] == "pixels"
    assert compared["edits"] == []
    assert compared["verdict"] in {"similar", "none"}


def test_a_query_id_is_compared_by_the_index_alone(service: Service) -> None:
    token = {"query_id": search(service, copy())["query_id"]}
    compared = compare(service, token, {"key": "1.png"})
    assert (*said(compared), compared["edits"]) == ("same_item", "index", [])
    assert compared["notes"] == ["first: a query_id carries no pixels"]


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ("removed", "second: the bucket no longer has the object 1.png"),
        ("replaced", "second: 1.png was replaced after it was indexed"),
    ],
)
def test_a_picture_that_changed_since_it_was_indexed_is_compared_as_indexed(
    service: Service, change: str, note: str
) -> None:
    _change(service, change)
    compared = compare(service, image(copy()), {"id": service.id("1.png")})
    assert said(compared) == ("same_item", "index")
    assert compared["notes"] == [note]


def test_the_schemas_name_every_level_edit_and_basis() -> None:
    assert get_args(get_args(search_schemas.Level)[0]) == tuple(Level)
    assert get_args(search_schemas.Edit) == tuple(Edit)
    assert get_args(get_args(search_schemas.Basis)[0]) == tuple(Basis)
