"""Answers while images are deleted and replaced: Qdrant finds points first and reads them later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness.adapters.qdrant_index import QdrantIndex
from likeness.adapters.qdrant_layout import Layout
from likeness.adapters.qdrant_points import to_payload
from likeness.adapters.qdrant_transport import Transport
from likeness.records import Point, State, Version
from tests import qdrant_server
from tests.pictures import jpeg, png
from tests.qdrant_engine import Engine
from tests.service import BUNDLED, SCHEMA, Service

IMAGES = {f"{n}.png": png(n) for n in range(6)} | {
    "copy.jpg": jpeg(1),
    "third.jpg": jpeg(1, quality=70),
}
# Duplicates of 1.png: `copy.jpg` is deleted while an answer is made.
DELETED = "copy.jpg"
Call = Callable[[Service], Any]


class Torn:
    """The service on a server that lets one image be deleted between finding and reading points."""

    def __init__(self, folder: Path) -> None:
        self.engine = Engine()
        self._server = qdrant_server.start(engine=self.engine)
        transport = Transport(qdrant_server.url_of(self._server))
        index = QdrantIndex(transport, Layout("images", SCHEMA))
        self.service = Service(folder, BUNDLED, index=index)
        self.service.fill(IMAGES, {key: {"brand": "acme"} for key in IMAGES})
        [stored] = index.retrieve_with_vectors([self.service.id(DELETED)]).values()
        gone = Point(stored.ref, State.GONE, Version(2**70), stored.model, 1.0)
        point = {"id": gone.id, "vector": {}, "payload": to_payload(gone)}
        self._write = f"/collections/images-{stored.model}/points", {"points": [point]}

    def delete_while_reading(self) -> None:
        self.engine.while_reading = lambda: self.engine.call("PUT", *self._write)

    def close(self) -> None:
        self.service.index.close()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def torn(tmp_path: Path) -> Iterator[Torn]:
    opened = Torn(tmp_path)
    yield opened
    opened.close()


def searching(**fields: Any) -> Call:
    return lambda service: service.search(key="1.png", limit=4, **fields)


SEARCHES: dict[str, Call] = {
    "none": searching(rerank="none"),
    "fast": searching(rerank="fast"),
    "precise": searching(rerank="precise"),
    "diverse": searching(diversity=0.5),
    "diverse and not reranked": searching(diversity=0.5, rerank="none"),
    "grouped": searching(group_by="brand", group_size=4),
    "cut off": searching(cutoff={"method": "relative", "value": 0.01}),
    "a second page": lambda service: service.search(key="1.png", limit=4, offset=1),
    "similar": lambda service: service.http.get(
        f"/v1/images/{service.id('1.png')}/similar", params={"limit": 4}
    ),
}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_an_image_deleted_during_a_search_is_left_out_and_the_page_filled(
    torn: Torn, search: Call
) -> None:
    before = search(torn.service).json()["results"]
    torn.delete_while_reading()
    answer = search(torn.service)
    assert answer.status_code == 200, answer.text
    keys = [result["key"] for result in answer.json()["results"]]
    assert DELETED not in keys
    assert len(keys) == len(before) == 4


def test_an_image_deleted_while_it_is_listed_is_left_out(torn: Torn) -> None:
    torn.delete_while_reading()
    answer = torn.service.http.get("/v1/images").json()
    assert {image["key"] for image in answer["images"]} == IMAGES.keys() - {DELETED}


def test_a_copy_deleted_while_duplicates_are_listed_is_left_out(torn: Torn) -> None:
    torn.delete_while_reading()
    [group] = torn.service.http.get("/v1/duplicates").json()["groups"]
    assert [copy["key"] for copy in group["copies"]] == ["third.jpg"]


def test_an_image_deleted_before_it_is_compared_is_not_indexed(torn: Torn) -> None:
    torn.delete_while_reading()
    torn.service.search(key="1.png")
    answer = torn.service.compare({"id": torn.service.id(DELETED)}, {"key": "1.png"})
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:likeness:problem:not-indexed")
