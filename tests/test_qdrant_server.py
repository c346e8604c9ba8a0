"""The tests' Qdrant server behaves like a real one where it was measured (Qdrant 1.19.0)."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, RemoteDisconnected
from typing import Any

import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests import qdrant_server
from tests.qdrant_cluster import Cluster, NodeDown, replicas
from tests.qdrant_engine import Engine, Refused

ID, OTHER = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
POINTS = "/collections/c/points"


def created(target: Any) -> Any:
    """The engine or node, with a collection `c` whose vectors have two dimensions."""
    target.call("PUT", "/collections/c", {"vectors": {"v": {"size": 2, "distance": "Cosine"}}})
    return target


def write(target: Any, ordering: str, text: str, older_than: int | None = None) -> Any:
    """Upsert a point; with `older_than` only where the stored version is smaller."""
    payload = {"text": text, "version": older_than or 0}
    body: dict[str, Any] = {"points": [{"id": ID, "vector": {"v": [1, 0]}, "payload": payload}]}
    if older_than is not None:
        body["update_filter"] = {"must": [{"key": "version", "range": {"lt": older_than}}]}
    return target.call("PUT", f"{POINTS}?wait=true&ordering={ordering}", body)


def read(target: Any, consistency: str = "") -> list[str]:
    query = f"?consistency={consistency}" if consistency else ""
    found = target.call("POST", POINTS + query, {"ids": [ID], "with_payload": True})
    return [point["payload"]["text"] for point in found]


def held(cluster: Cluster) -> list[list[str]]:
    """What each replica holds."""
    points = [engine.read("c").values() for engine in cluster.engines]
    return [[point["payload"]["text"] for point in each] for each in points]


def at_once(*writes: Callable[[], Any]) -> list[threading.Thread]:
    threads = [threading.Thread(target=each) for each in writes]
    for thread in threads:
        thread.start()
    return threads


@pytest.fixture(params=[2, 3])
def cluster(request: pytest.FixtureRequest) -> Cluster:
    cluster = Cluster(replicas(request.param))
    created(cluster.nodes[0])
    return cluster


def differing(cluster: Cluster) -> list[list[str]]:
    """Two writes of one version, through two nodes, reach the first two replicas crosswise."""
    cluster.held = True
    threads = at_once(
        lambda: write(cluster.nodes[0], "weak", "first", older_than=5),
        lambda: write(cluster.nodes[1], "weak", "second", older_than=5),
    )
    cluster.wait_for_writes(2)
    cluster.deliver(0, 0)
    cluster.deliver(1, 1)
    cluster.release()
    for thread in threads:
        thread.join()
    return held(cluster)


def test_weak_writes_of_one_version_through_two_nodes_differ_for_ever(cluster: Cluster) -> None:
    assert differing(cluster)[:2] == [["first"], ["second"]]


@pytest.mark.parametrize("ordering", ["medium", "strong"])
def test_ordered_writes_reach_all_replicas_in_one_order(cluster: Cluster, ordering: str) -> None:
    cluster.held = True
    threads = at_once(
        lambda: write(cluster.nodes[0], ordering, "first", older_than=5),
        lambda: write(cluster.nodes[1], ordering, "second", older_than=5),
    )
    cluster.wait_for_writes(2)
    [(update, replica), *_] = cluster.deliveries()
    cluster.apply(update, replica)
    assert all(each is update for each, _ in cluster.deliveries())  # the other waits its turn
    cluster.release()
    for thread in threads:
        thread.join()
    assert held(cluster) in ([["first"]] * len(cluster.nodes), [["second"]] * len(cluster.nodes))


def test_a_write_is_confirmed_only_when_every_live_replica_has_it(cluster: Cluster) -> None:
    cluster.held = True
    [thread] = at_once(lambda: write(cluster.nodes[0], "weak", "new"))
    cluster.wait_for_writes(1)
    cluster.deliver(0, 0)
    assert thread.is_alive()
    assert read(cluster.nodes[0]) == ["new"]
    assert read(cluster.nodes[1]) == read(cluster.nodes[1], "all") == []
    cluster.release()
    thread.join()
    assert held(cluster) == [["new"]] * len(cluster.nodes)


@pytest.mark.parametrize("consistency", ["majority", "quorum", "all", "2"])
def test_two_replicas_that_differ_leave_a_point_out(consistency: str) -> None:
    cluster = Cluster(replicas(2))
    created(cluster.nodes[0])
    differing(cluster)
    assert [read(node) for node in cluster.nodes] == [["first"], ["second"]]
    assert [read(node, consistency) for node in cluster.nodes] == [[], []]
    scrolled = cluster.nodes[0].call(
        "POST", f"{POINTS}/scroll?consistency={consistency}", {"with_payload": True}
    )
    assert scrolled == {"points": [], "next_page_offset": None}
    search = {"query": [1, 0], "using": "v", "limit": 9, "with_payload": True}
    found = cluster.nodes[0].call(
        "POST", f"{POINTS}/query/batch?consistency={consistency}", {"searches": [search]}
    )
    assert found == [{"points": []}]
    path = f"{POINTS}/count?consistency={consistency}"
    assert cluster.nodes[0].call("POST", path, {}) == {"count": 1}


def test_of_three_replicas_two_that_agree_are_a_majority() -> None:
    cluster = Cluster(replicas(3))
    created(cluster.nodes[0])
    texts = [text for [text] in differing(cluster)]
    [majority] = {text for text in texts if texts.count(text) > 1}
    assert {read(node, "majority")[0] for node in cluster.nodes} == {majority}
    assert [read(node, "all") for node in cluster.nodes] == [[], [], []]


def test_a_page_without_a_point_that_differs_says_that_it_is_the_last(cluster: Cluster) -> None:
    differing(cluster)
    for number in range(2, 6):
        body = {"points": [{"id": number, "vector": {}, "payload": {}}]}
        cluster.nodes[0].call("PUT", f"{POINTS}?wait=true&ordering=medium", body)
    page_of_four = {"limit": 4, "with_payload": True}
    page = cluster.nodes[0].call("POST", f"{POINTS}/scroll?consistency=all", page_of_four)
    assert page["next_page_offset"] is None
    page = cluster.nodes[0].call("POST", f"{POINTS}/scroll", page_of_four)
    assert page["next_page_offset"] is not None


def test_a_write_whose_condition_holds_everywhere_makes_replicas_equal(cluster: Cluster) -> None:
    differing(cluster)
    write(cluster.nodes[0], "strong", "healed", older_than=6)
    assert held(cluster) == [["healed"]] * len(cluster.nodes)
    assert read(cluster.nodes[1], "majority") == ["healed"]


def test_each_replica_judges_a_condition_by_its_own_state(cluster: Cluster) -> None:
    write(cluster.engines[0], "weak", "new", older_than=9)
    write(cluster.engines[1], "weak", "old", older_than=3)
    write(cluster.nodes[0], "strong", "between", older_than=5)
    assert held(cluster)[:2] == [["new"], ["between"]]
    gone = {"filter": {"must": [{"key": "text", "match": {"value": "new"}}]}}
    cluster.nodes[1].call("POST", f"{POINTS}/delete?wait=true&ordering=strong", gone)
    assert held(cluster)[:2] == [[], ["between"]]


def test_a_dead_node_loses_nothing_and_recovers(cluster: Cluster) -> None:
    write(cluster.nodes[1], "weak", "before")
    cluster.kill(0)
    with pytest.raises(NodeDown):
        read(cluster.nodes[0])
    write(cluster.nodes[1], "weak", "meanwhile")
    cluster.revive(0)
    assert held(cluster) == [["meanwhile"]] * len(cluster.nodes)
    assert read(cluster.nodes[0], "majority") == ["meanwhile"]


def test_a_read_with_a_majority_needs_all_replicas_to_be_there(cluster: Cluster) -> None:
    write(cluster.nodes[0], "weak", "new")
    cluster.kill(1)
    for consistency in ("majority", "all"):
        with pytest.raises(Refused, match="too few active replicas"):
            read(cluster.nodes[0], consistency)
    assert read(cluster.nodes[0]) == ["new"]


def test_a_dead_leader_is_replaced_for_medium_and_awaited_for_strong(cluster: Cluster) -> None:
    last = len(cluster.nodes) - 1
    cluster.kill(last)
    for ordering in ("medium", "medium", "strong", "strong"):
        with pytest.raises(Refused) as refused:
            write(cluster.nodes[0], ordering, "too early")
        assert refused.value.status == 500
    write(cluster.nodes[0], "medium", "by the next leader")
    with pytest.raises(Refused):
        write(cluster.nodes[0], "strong", "still too early")
    cluster.revive(last)
    write(cluster.nodes[0], "strong", "by the first leader")
    assert held(cluster) == [["by the first leader"]] * len(cluster.nodes)


def test_a_leader_that_dies_leaves_a_write_half_done_and_unconfirmed(cluster: Cluster) -> None:
    cluster.held = True
    failures: list[Exception] = []

    def written() -> None:
        try:
            write(cluster.nodes[0], "medium", "new")
        except Refused as error:
            failures.append(error)

    last = len(cluster.nodes) - 1
    [thread] = at_once(written)
    cluster.wait_for_writes(1)
    cluster.deliver(last, last)
    cluster.kill(last)
    thread.join()
    assert len(failures) == 1
    assert held(cluster) == [*([[]] * last), ["new"]]
    cluster.revive(last)
    assert held(cluster) == [[]] * len(cluster.nodes)


def test_writes_under_way_reach_a_node_that_comes_back(cluster: Cluster) -> None:
    cluster.kill(0)
    cluster.held = True
    [thread] = at_once(lambda: write(cluster.nodes[1], "weak", "new"))
    cluster.wait_for_writes(1)
    cluster.revive(0, source=1)
    cluster.release()
    thread.join()
    assert held(cluster) == [["new"]] * len(cluster.nodes)


def test_facets_with_a_consistency_add_up_counts() -> None:
    cluster = Cluster(replicas(2))
    created(cluster.nodes[0])
    write(cluster.nodes[0], "medium", "red")
    asked = ("POST", "/collections/c/facet", {"key": "text"})
    assert cluster.nodes[0].call(*asked)["hits"] == [{"value": "red", "count": 1}]
    asked = ("POST", "/collections/c/facet?consistency=majority", {"key": "text"})
    assert cluster.nodes[0].call(*asked)["hits"] == [{"value": "red", "count": 2}]


@pytest.fixture
def server() -> Iterator[Any]:
    server = qdrant_server.start(api_key="all", read_only_key="read", version="1.18.2")
    yield server
    server.shutdown()
    server.server_close()


def ask(
    server: Any, method: str, path: str, key: str | None, body: Any = None
) -> tuple[int, str | None, bytes]:
    """Status, content type and body."""
    with closing(HTTPConnection("127.0.0.1", server.server_port)) as connection:
        headers = {"api-key": key} if key else {}
        connection.request(method, path, json.dumps(body) if body else None, headers)
        response = connection.getresponse()
        return response.status, response.getheader("content-type"), response.read()


def test_keys_are_refused_in_plain_text(server: Any) -> None:
    body = {"vectors": {}}
    assert ask(server, "GET", "/collections", None)[:2] == (401, "text/plain")
    assert ask(server, "GET", "/collections", "wrong")[:2] == (401, "text/plain")
    assert ask(server, "PUT", "/collections/c", "read", body)[:2] == (403, "text/plain")
    assert ask(server, "PUT", "/collections/c", "all", body)[:2] == (200, "application/json")
    assert ask(server, "PUT", "/collections/c", "all", body)[0] == 409
    assert ask(server, "POST", f"{POINTS}/scroll", "read", {"limit": 1})[0] == 200
    assert ask(server, "POST", f"{POINTS}/delete", "read", {"points": [ID]})[0] == 403


def test_the_version_needs_no_key(server: Any) -> None:
    status, _, body = ask(server, "GET", "/", None)
    about = {"title": "qdrant - vector search engine", "version": "1.18.2"}
    assert (status, json.loads(body)) == (200, about)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/points", {"ids": ["0" * 36]}),
        ("/points/scroll", {"offset": "a"}),
        ("/points/delete", {"points": [-1]}),
        ("/points/delete", {"filter": {"must": [{"has_id": ["x"]}]}}),
        ("/points/query/batch", {"searches": [{"filter": {"should": {"has_id": ["x"]}}}]}),
    ],
)
def test_a_malformed_id_is_refused_before_the_collection_is_looked_for(
    path: str, body: Any
) -> None:
    with pytest.raises(Refused, match="is not a valid point ID") as refused:
        Engine().call("POST", f"/collections/missing{path}", body)
    assert refused.value.status == 400


LIMITS = {
    "enabled": True,
    "max_query_limit": 20,
    "search_max_hnsw_ef": 128,
    "search_max_oversampling": 2.0,
    "search_max_batchsize": 2,
    "upsert_max_batchsize": 1,
    "max_payload_index_count": 2,
    "filter_max_conditions": 3,
    "condition_max_size": 2,
    "unindexed_filtering_retrieve": False,
    "unindexed_filtering_update": False,
}
BRAND = {"must": [{"key": "brand", "match": {"value": "acme"}}]}
SIZE = {"must_not": [{"must": [{"key": "size", "range": {"gt": 1}}]}]}


def search(**parts: Any) -> tuple[str, str, Any]:
    one = {"query": [1, 0], "using": "v", "limit": 5, **parts}
    return "POST", "/points/query/batch", {"searches": [one]}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (search(limit=21), 'Limit exceeded 21 > 20 for "limit"'),
        (search(params={"hnsw_ef": 129}), 'Limit exceeded 129 > 128 for "hnsw_ef"'),
        (
            search(params={"quantization": {"oversampling": 4.0}}),
            'Limit exceeded 4.0 > 2.0 for "oversampling"',
        ),
        (
            search(prefetch={"query": [1, 0], "using": "v", "limit": 21}),
            'Limit exceeded 21 > 20 for "limit"',
        ),
        (
            ("POST", "/points/query/batch", {"searches": search()[2]["searches"] * 3}),
            'Limit exceeded 3 > 2 for "search batch size"',
        ),
        (("POST", "/points/scroll", {"limit": 21}), 'Limit exceeded 21 > 20 for "limit"'),
        (
            ("PUT", "/points", {"points": [{"id": n, "vector": {}} for n in (1, 2)]}),
            'Limit exceeded 2 > 1 for "upsert limit"',
        ),
        (search(filter=SIZE), 'Index required but not found for "size" .*: \\[float, integer\\]'),
        (("POST", "/points/delete", {"filter": SIZE}), 'Index required but not found for "size"'),
        (
            search(filter={"should": [*BRAND["must"], {"must": BRAND["must"] * 3}]}),
            r"Filter condition limit reached \(4 > 3\)",
        ),
        (
            ("POST", "/points/delete", {"filter": {"must": [{"has_id": [1, 2, 3]}]}}),
            r"Condition size limit reached \(3 > 2\)",
        ),
        (("PUT", "/index", {"field_name": "c", "field_schema": "float"}), "maximum number of pay"),
    ],
)
def test_strict_mode_refuses_what_is_beyond_its_limits(request_: Any, message: str) -> None:
    engine = created(Engine(strict_mode=LIMITS))
    for field in ("brand", "shape"):
        index = {"field_name": field, "field_schema": "keyword"}
        engine.call("PUT", "/collections/c/index", index)
    assert engine.call("GET", "/collections/c", None)["config"]["strict_mode_config"] == LIMITS
    allowed = search(limit=20, filter=BRAND, params={"hnsw_ef": 128})
    for method, path, body in (allowed, ("POST", "/points/delete", {"filter": BRAND})):
        engine.call(method, f"/collections/c{path}", body)
    method, path, body = request_
    with pytest.raises(Refused, match=message) as refused:
        engine.call(method, f"/collections/c{path}", body)
    assert refused.value.status == 400


def test_points_may_change_between_being_found_and_being_read() -> None:
    engine = created(Engine())
    write(engine, "weak", "old")

    def overwrite() -> None:
        point = {"id": ID, "vector": {"v": [0, 1]}, "payload": {"text": "new"}}
        engine.call("PUT", POINTS, {"points": [point]})

    engine.while_reading = overwrite
    asked = search(with_payload=True, with_vector=True)
    [found] = engine.call(asked[0], f"/collections/c{asked[1]}", asked[2])
    [point] = found["points"]
    assert (point["payload"], point["vector"]) == ({"text": "new"}, {"v": [0.0, 1.0]})
    assert point["score"] == 1.0  # of the vector that was found
    engine.while_reading = lambda: engine.call("POST", f"{POINTS}/delete", {"points": [ID]})
    assert engine.call("POST", f"{POINTS}/scroll", {})["points"] == []


def test_the_official_client_works_with_a_node_and_sees_its_death() -> None:
    cluster = Cluster(replicas(2))
    servers = qdrant_server.start_cluster(cluster)
    first, second = (QdrantClient(url=qdrant_server.url_of(each)) for each in servers)
    assert first.info().version == "1.19.0"
    assert not first.collection_exists("c")
    assert first.create_collection(
        "c", {"v": models.VectorParams(size=2, distance=models.Distance.COSINE)}, metadata={"m": 1}
    )
    first.create_payload_index("c", "text", models.PayloadSchemaType.KEYWORD)
    create = models.CreateAlias(collection_name="c", alias_name="a")
    first.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])
    assert [alias.alias_name for alias in second.get_aliases().aliases] == ["a"]
    assert [collection.name for collection in second.get_collections().collections] == ["c"]
    info = second.get_collection("a")
    assert (info.config.params.replication_factor, info.config.metadata) == (2, {"m": 1})
    assert list(info.payload_schema) == ["text"]
    point = models.PointStruct(id=ID, vector={"v": [1, 0]}, payload={"text": "x"})
    older = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=5))])
    for ordering in models.WriteOrdering:
        done = first.upsert("a", [point], update_filter=older, ordering=ordering)
        assert done.status == models.UpdateStatus.COMPLETED
    for consistency in (None, 1, models.ReadConsistencyType.MAJORITY):
        [record] = second.retrieve("a", [ID, OTHER], with_vectors=True, consistency=consistency)
        assert (record.payload, record.vector) == ({"text": "x"}, {"v": [1, 0]})
        assert second.scroll("a", limit=3, consistency=consistency)[0][0].id == ID
        query = models.QueryRequest(query=[1.0, 0.0], using="v", limit=3, with_payload=True)
        [answer] = second.query_batch_points("a", [query], consistency=consistency)
        assert [hit.id for hit in answer.points] == [ID]
        assert second.count("a").count == 1
    assert second.query_points("a", [1.0, 0.0], using="v").points[0].score == 1.0
    assert second.facet("a", "text").hits[0].count == 1
    first.delete("a", models.PointIdsList(points=[ID]), ordering=models.WriteOrdering.STRONG)
    assert second.retrieve("a", [ID]) == []
    cluster.kill(1)
    with closing(HTTPConnection("127.0.0.1", servers[1].server_port)) as connection:
        connection.request("GET", "/collections")
        with pytest.raises(RemoteDisconnected):
            connection.getresponse()
    cluster.revive(1)
    assert second.delete_collection("c")
    with pytest.raises(UnexpectedResponse, match="404"):
        first.get_collection("c")
    for client, server in zip((first, second), servers, strict=True):
        client.close()
        server.shutdown()
        server.server_close()
