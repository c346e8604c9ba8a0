"""docs/reference/sizing.md equals benchmarks/sizing.py's output; its nodes are large enough."""

from __future__ import annotations

import pytest

from benchmarks.sizing import MILLION, SIZES, SOURCES, Inputs, machines, page, plan
from tests.service import ROOT


def test_the_page_equals_the_output_of_the_script() -> None:
    assert (ROOT / "docs" / "reference" / "sizing.md").read_text() == page(Inputs())


def test_each_input_has_a_source() -> None:
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


def test_the_cost_of_searches_does_not_depend_on_the_number_of_images() -> None:
    one, ten = (plan(images, Inputs()) for images in (MILLION, 10 * MILLION))
    assert one.search_usd == ten.search_usd
    assert ten.index_usd == pytest.approx(10 * one.index_usd)


def test_an_index_too_large_for_every_node_is_refused() -> None:
    with pytest.raises(SystemExit, match="--shard-images"):
        machines(memory_gib=1000, cores=1, replicas=2, shards=1)
