"""docs/reference/sizing.md is what benchmarks/sizing.py prints; its nodes are large enough."""

from __future__ import annotations

import pytest

from benchmarks.sizing import MILLION, SIZES, SOURCES, Inputs, machines, page, plan
from tests.service import ROOT


def test_the_page_is_the_one_that_the_script_prints() -> None:
    assert (ROOT / "docs" / "reference" / "sizing.md").read_text() == page(Inputs())


def test_each_input_says_where_it_comes_from() -> None:
    assert list(SOURCES) == list(Inputs._fields)


@pytest.mark.parametrize("images", SIZES)
@pytest.mark.parametrize("given", [Inputs(), Inputs(queries_s=200.0), Inputs(replicas=3)])
def test_the_nodes_have_the_memory_and_the_cores(images: int, given: Inputs) -> None:
    found = plan(images, given)
    assert found.nodes * found.node.memory_gib >= found.memory_gib
    assert found.nodes * found.node.cores >= found.cores
    assert found.nodes >= given.replicas
    assert found.shards * given.replicas % found.nodes == 0
    assert found.shards * given.shard_images >= images


def test_more_images_never_cost_less() -> None:
    costs = [plan(images, Inputs()).month_usd for images in SIZES]
    assert costs == sorted(costs)


def test_a_million_more_images_change_no_searches() -> None:
    one, ten = (plan(images, Inputs()) for images in (MILLION, 10 * MILLION))
    assert one.search_usd == ten.search_usd
    assert ten.index_usd == pytest.approx(10 * one.index_usd)


def test_what_no_node_can_hold_is_told() -> None:
    with pytest.raises(SystemExit, match="--shard-images"):
        machines(memory_gib=1000, cores=1, replicas=2, shards=1)
