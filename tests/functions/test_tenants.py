"""Tenants: whatever one of them asks, the others do not exist.

Two services answer each request: one with every tenant's images, one with only the caller's. The
answers must be equal, so they contain nothing of other tenants: no id, no key, no count.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import structs

from functions.search import openapi
from likeness.duplicates import Duplicates
from likeness.feedback import FeedbackStore
from likeness.filters import Schema
from likeness.records import Hint, ObjectRef
from likeness.tenants import TenantIndex, Tenants
from tests.gateway import Gateway
from tests.pictures import jpeg, png
from tests.service import SCHEMA, Service

PREFIX, CLAIM = "img/", "custom:tenant"
ME = "acme"
# One is the start of another, one looks like a pattern.
OTHERS = ("acme-2", "acm", "a.me")
PICTURES = 5
# A key of metadata may be called tenant too: it is another one.
DECLARED = Schema.declare({**SCHEMA.types, "tenant": "keyword"})
UNKNOWN = "00000000-0000-5000-8000-000000000000"
ANYBODY = (ME, *OTHERS, "", "nobody")


def files(tenant: str) -> dict[str, bytes]:
    """The same files for each tenant: images, a copy of one, a file that is not an image."""
    folder = f"{PREFIX}{tenant}/"
    pictures = {f"{folder}{n}.png": png(n) for n in range(PICTURES)}
    return {**pictures, f"{folder}copy.jpg": jpeg(1), f"{folder}bad.png": b"no picture"}


LOOSE = {f"{PREFIX}loose.png": png(1), "elsewhere/1.png": png(1), "img": png(1)}


def fill(service: Service, files: dict[str, bytes]) -> None:
    """Copies are indexed after their originals."""
    for late in (False, True):
        part = {key: data for key, data in files.items() if ("copy" in key) == late}
        service.fill(part, {key: metadata(key) for key in part})


def metadata(key: str) -> dict[str, str]:
    """Metadata that names another tenant, which must have no effect."""
    number = sum(key.encode())
    return {"brand": "b", "price": str(number), "tenant": OTHERS[number % len(OTHERS)]}


@dataclass
class Worlds:
    """`all` has every tenant's images, `own` only the caller's."""

    all: Service
    own: Service

    def __post_init__(self) -> None:
        self._doors = [Gateway(self.all.app), Gateway(self.own.app)]

    def ask(self, method: str, url: str, body: Any = None) -> tuple[int, Any]:
        """The answer of both. Asserts that they are equal."""
        (status, answer), lonely = (
            told(door.call(method, url, body, authorizer={"claims": {CLAIM: ME}}))
            for door in self._doors
        )
        assert (status, answer) == lonely
        return status, answer


def told(answer: tuple[int, Any]) -> tuple[int, Any]:
    """The answer without fields that differ between any two requests or indexes."""
    status, body = answer
    hidden = ("took_ms", "indexed_at", "version_id", "collection")
    body = {name: value for name, value in body.items() if name not in hidden}
    if "images" in body:
        body["images"] = [told((0, image))[1] for image in body["images"]]
    if status == 201:  # its key has a random part
        assert body["key"].startswith(f"{PREFIX}{ME}/uploads/")
        return status, sorted(body)
    return status, body


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worlds]:
    with ExitStack() as opened:
        services = [
            opened.enter_context(
                Service(
                    tmp_path_factory.mktemp("index"),
                    tenant_claim=CLAIM,
                    prefix=PREFIX,
                    upload_prefix=f"{PREFIX}uploads/",
                    schema=DECLARED,
                )
            )
            for _ in range(2)
        ]
        # one tenant at a time: in another batch, a network's last digit is another
        for batch in (LOOSE, *map(files, OTHERS)):
            fill(services[0], batch)
        for service in services:
            fill(service, files(ME))
        yield Worlds(*services)


# Every value that a request may name: the asker's, others', nobody's

NAMES = [*(f"{n}.png" for n in range(PICTURES)), "copy.jpg", "bad.png", "none.png"]
ALL_KEYS = [f"{PREFIX}{tenant}/{name}" for tenant in ANYBODY for name in NAMES] + [*LOOSE]
MINE = [f"{PREFIX}{ME}/{name}" for name in NAMES]
keys = st.sampled_from(MINE) | st.sampled_from(ALL_KEYS)
ids = keys.map(lambda key: ObjectRef("photos", key).point_id) | st.just(UNKNOWN)
texts = st.sampled_from([*ANYBODY, *OTHERS, "b", "*"])
matches = st.builds(
    lambda key, match: {"key": key, "match": match},
    st.sampled_from(["tenant", "brand", "bucket", "content_type"]),
    st.one_of(
        texts.map(lambda text: {"value": text}),
        st.lists(texts, max_size=4).map(lambda listed: {"any": listed}),
        st.lists(texts, max_size=4).map(lambda listed: {"except": listed}),
    ),
)
conditions = st.one_of(*[matches] * 6, st.just({"key": "price", "range": {"gte": 0}}))
# What no filter may say.
refused = st.sampled_from(
    [
        {"has_id": [ObjectRef("photos", f"{PREFIX}{OTHERS[0]}/1.png").point_id]},
        {"is_empty": {"key": "tenant"}},
        {"key": "meta.tenant", "match": {"value": OTHERS[0]}},
        {"key": "group", "match": {"any": [*OTHERS]}},
        {"nested": {"key": "meta", "filter": {"must": []}}},
    ]
)
clauses = st.sampled_from(["must", "should", "must_not"])
filters = st.recursive(
    st.dictionaries(clauses, st.lists(conditions, max_size=3), min_size=1, max_size=3),
    lambda inner: st.dictionaries(clauses, st.lists(inner | conditions, max_size=2), min_size=1),
    max_leaves=4,
) | refused.map(lambda condition: {"should": [condition]})
options = st.fixed_dictionaries(
    {},
    optional={
        "filter": filters,
        "limit": st.sampled_from([1, 3, 100]),
        "offset": st.sampled_from([0, 1, 5, 200]),
        "rerank": st.sampled_from(["none", "fast", "precise"]),
        "group_by": st.sampled_from(["brand", "tenant"]),
        "exclude": st.lists(ids, max_size=3),
        "score_threshold": st.sampled_from([-1.0, 0.5, 0.999]),
        "diversity": st.sampled_from([0.0, 0.5]),
        "explain": st.booleans(),
        "with_url": st.booleans(),
    },
)
pictures = st.one_of(
    ids.map(lambda id: {"id": id}),
    keys.map(lambda key: {"key": key}),
    keys.map(lambda key: {"key": key, "box": [0, 0, 1, 0.9]}),
    st.integers(0, PICTURES).map(lambda n: {"image": base64.b64encode(jpeg(n)).decode()}),
)
sources = st.one_of(
    pictures,
    st.builds(
        lambda positive, negative: {"positive": positive, "negative": negative},
        st.lists(ids, min_size=1, max_size=2),
        st.lists(ids, max_size=2),
    ),
)
found = st.one_of(
    st.sampled_from(MINE[:PICTURES]).map(lambda key: {"key": key}),
    st.integers(0, PICTURES).map(lambda n: {"image": base64.b64encode(jpeg(n)).decode()}),
)


def searching(sources: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, str, Any]]:
    return st.builds(
        lambda source, wanted: ("POST", "/v1/search", {**wanted, **source}), sources, options
    )


others = st.one_of(
    ids.map(lambda id: ("GET", f"/v1/images/{id}", None)),
    ids.map(lambda id: ("GET", f"/v1/images/{id}/similar?limit=100", None)),
    keys.map(lambda key: ("GET", f"/v1/status?key={key}", None)),
    st.builds(
        lambda limit, cursor: ("GET", f"/v1/duplicates?limit={limit}&cursor={cursor}", None),
        st.integers(1, 4),
        ids,
    ),
    st.just(("GET", "/v1/duplicates", None)),
    st.builds(
        lambda filter, state, limit, cursor: (
            "GET",
            f"/v1/images?state={state}&limit={limit}&cursor={cursor}"
            f"&filter={quote(json.dumps(filter))}",
            None,
        ),
        filters,
        st.sampled_from(["live", "rejected"]),
        st.integers(1, 9),
        ids,
    ),
    st.just(("GET", "/v1/images?limit=2", None)),
    ids.map(lambda id: ("GET", f"/v1/images/{id}/thumbnail?size=160", None)),
    filters.map(lambda filter: ("GET", f"/v1/facets?filter={quote(json.dumps(filter))}", None)),
    st.just(("GET", "/v1/facets?keys=tenant,brand", None)),
    st.just(("GET", "/v1/config", None)),
    st.just(("GET", "/v1/ready", None)),
    st.just(("GET", "/v1/health", None)),
    st.just(("POST", "/v1/uploads", {"content_type": "image/png", "name": "a.png"})),
    st.builds(
        lambda first, second: ("POST", "/v1/compare", {"first": first, "second": second}),
        pictures,
        pictures,
    ),
    st.builds(
        lambda id, kind: ("POST", "/v1/feedback", {"request_id": "r", "id": id, "kind": kind}),
        ids,
        st.sampled_from(["click", "relevant"]),
    ),
    st.builds(
        lambda number, id, what: (
            "POST",
            "/v1/duplicates/decisions",
            {"group": number, "id": id, "decision": what},  # the number of a group of `named`
        ),
        st.integers(0, len(OTHERS)),
        ids,
        st.sampled_from(["duplicate", "not_duplicate"]),
    ),
    ids.map(lambda id: ("DELETE", f"/v1/images/{id}", None)),
)
bounded = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.fixture(scope="module")
def named(worlds: Worlds) -> list[str]:
    """The groups of all tenants, the caller's first: each has one."""
    found = {
        tenant: Duplicates(TenantIndex(worlds.all.index, tenant)).groups(10)[0]
        for tenant in (ME, *OTHERS)
    }
    assert [len(listed) for listed in found.values()] == [1] * len(found)
    return [listed[0].id for listed in found.values()]


@given(request=searching(found))
@bounded
def test_no_search_finds_other_tenants_images(
    worlds: Worlds, request: tuple[str, str, Any]
) -> None:
    status, answer = check(worlds, *request)
    _, _, body = request
    if status == 200 and not body.keys() & {"filter", "score_threshold", "offset", "exclude"}:
        assert answer["results"]


@given(request=searching(sources))
@bounded
def test_no_search_can_use_other_tenants_images(
    worlds: Worlds, request: tuple[str, str, Any]
) -> None:
    check(worlds, *request)


@given(request=others)
@bounded
def test_no_other_route_reveals_other_tenants(
    worlds: Worlds, named: list[str], request: tuple[str, str, Any]
) -> None:
    method, url, body = request
    if body and "group" in body:
        body = {**body, "group": named[body["group"]]}
    check(worlds, method, url, body)


def check(worlds: Worlds, method: str, url: str, body: Any) -> tuple[int, Any]:
    status, answer = worlds.ask(method, url, body)
    said, asked = json.dumps(answer), url + json.dumps(body)
    for tenant, name in itertools.product(OTHERS, NAMES):
        ref = ObjectRef("photos", f"{PREFIX}{tenant}/{name}")
        # a status says the key back that it was asked for, and the id that is made of it
        assert ref.key not in said or ref.key in asked
        assert ref.point_id not in said or ref.point_id in asked or ref.key in asked
    return status, answer


def test_the_tested_routes_are_all_routes() -> None:
    asked = {"search", "image", "similar", "compare", "duplicates", "decide", "feedback"}
    asked |= {"upload", "status", "health", "ready", "remove"}
    asked |= {"images", "thumbnail", "facets", "config"}
    assert {operation.name for operation in openapi.OPERATIONS} == asked


@pytest.mark.parametrize("tenant", OTHERS)
def test_another_tenants_id_and_key_are_answered_as_unknown_ones(
    worlds: Worlds, tenant: str
) -> None:
    theirs = ObjectRef("photos", f"{PREFIX}{tenant}/1.png")
    nobodys = ObjectRef("photos", f"{PREFIX}{tenant}/none.png")
    assert theirs.point_id in worlds.all.index.retrieve_with_vectors([theirs.point_id])
    for method, url, body in requests_for("<id>", "<key>"):
        answers = []
        for ref in (theirs, nobodys):
            filled = json.loads(put_in(json.dumps(body), ref)) if body else None
            status, answer = worlds.ask(method, put_in(url, ref), filled)
            echo = json.dumps(answer).replace(ref.point_id, "<id>").replace(ref.key, "<key>")
            answers.append((status, echo))
        assert answers[0] == answers[1]
        assert answers[0][0] == (200 if "status" in url or "feedback" in url else 404)


def put_in(text: str, ref: ObjectRef) -> str:
    return text.replace("<id>", ref.point_id).replace("<key>", ref.key)


def requests_for(point: str, key: str) -> list[tuple[str, str, Any]]:
    mine = {"image": base64.b64encode(png(1)).decode()}
    return [
        ("GET", f"/v1/images/{point}", None),
        ("GET", f"/v1/images/{point}/similar", None),
        ("GET", f"/v1/images/{point}/thumbnail", None),
        ("DELETE", f"/v1/images/{point}", None),
        ("GET", f"/v1/status?key={key}", None),
        ("POST", "/v1/search", {"id": point}),
        ("POST", "/v1/search", {"key": key}),
        ("POST", "/v1/search", {"key": key, "box": [0, 0, 1, 0.5]}),
        ("POST", "/v1/search", {"positive": [point]}),
        ("POST", "/v1/compare", {"first": {"id": point}, "second": mine}),
        ("POST", "/v1/compare", {"first": mine, "second": {"key": key}}),
        ("POST", "/v1/feedback", {"request_id": "r", "id": point, "kind": "click"}),
        (
            "POST",
            "/v1/duplicates/decisions",
            {"group": UNKNOWN, "id": point, "decision": "duplicate"},
        ),
    ]


def test_a_tenant_sees_all_of_its_images(worlds: Worlds) -> None:
    _, answer = worlds.ask(
        "POST", "/v1/search", {"key": f"{PREFIX}{ME}/2.png", "limit": 100, "rerank": "none"}
    )
    found = {result["key"] for result in answer["results"]}
    mine = {key for key in files(ME) if "bad" not in key and "2.png" not in key}
    # whichever of them the random requests left in the bucket, the index has them all
    assert found == mine


def test_duplicates_are_matched_within_one_tenant_only(tmp_path: Any) -> None:
    with Service(tmp_path, tenant_claim=CLAIM, prefix=PREFIX) as service:
        service.fill({"loose.png": png(1)})
        for name in ("first.png", "second.png"):
            service.fill({f"{PREFIX}{tenant}/{name}": png(1) for tenant in (ME, *OTHERS)})
        points = service.index.scroll(100).points
    by_tenant = {point.id: point.tenant for point in points}
    marked = [point for point in points if point.partners]
    assert sorted(point.ref.key for point in marked) == sorted(
        f"{PREFIX}{tenant}/second.png" for tenant in (ME, *OTHERS)
    )
    for point in marked:
        assert [by_tenant[partner.id] for partner in point.partners] == [point.tenant]
        assert by_tenant[point.original or ""] == point.tenant


def test_decisions_and_feedback_belong_to_one_tenant(worlds: Worlds) -> None:
    mine, theirs = (TenantIndex(worlds.all.index, name) for name in (ME, OTHERS[0]))
    mine.put_note("test", "same", {"of": "me"})
    theirs.put_note("test", "same", {"of": "them"})
    assert [note["of"] for note in mine.list_notes("test", 10)[0]] == ["me"]
    mine.delete_note("test", "same")
    assert mine.list_notes("test", 10)[0] == []
    assert [note["of"] for note in theirs.list_notes("test", 10)[0]] == ["them"]
    # the operator's evaluation reads everybody's feedback
    status, _ = worlds.ask(
        "POST", "/v1/feedback", {"request_id": "r", "id": UNKNOWN, "kind": "click"}
    )
    assert status == 200
    assert UNKNOWN in {opinion.id for opinion in FeedbackStore(worlds.all.index).all()}


@pytest.mark.parametrize(
    "authorizer", [None, {}, {"claims": {}}, {"claims": {CLAIM: "acme/x"}}], ids=str
)
def test_a_caller_without_a_tenant_is_refused_everywhere(worlds: Worlds, authorizer: Any) -> None:
    door = Gateway(worlds.all.app)
    sent: Mapping[str, str] = {CLAIM: ME, "tenant": ME}
    for operation in openapi.OPERATIONS:
        path = operation.path.replace("{id}", UNKNOWN)
        body = {} if operation.method == "POST" else None
        status, answer = door.call(
            operation.method, path, body, authorizer=authorizer, headers=sent
        )
        if operation.name == "health":
            assert status == 200
        else:
            assert (status, answer["type"]) == (403, "urn:likeness:problem:no-tenant")


def test_tenants_enabled_later_are_indexed_with_the_next_hint(tmp_path: Any) -> None:
    with Service(tmp_path) as service:
        service.fill({"acme/1.png": png(1)})
        point = service.id("acme/1.png")
        assert service.index.retrieve_with_vectors([point])[point].tenant is None
        service.settings = structs.replace(service.settings, tenant_claim=CLAIM)
        service.bucket.events.append(Hint(ObjectRef("photos", "acme/1.png")))
        service._reconcile()
        assert service.index.retrieve_with_vectors([point])[point].tenant == "acme"


def test_a_tenants_uploads_go_to_its_own_folder(worlds: Worlds) -> None:
    door = Gateway(worlds.all.app)
    body = {"content_type": "image/png", "name": "a.png"}
    _, ticket = door.call("POST", "/v1/uploads", body, authorizer={"claims": {CLAIM: ME}})
    assert Tenants(PREFIX).owner(ticket["key"]) == ME
    assert ticket["fields"]["key"] == ticket["key"]
