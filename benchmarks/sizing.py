"""Size and monthly cost of an index of a hundred thousand to a hundred million images.

Prints docs/reference/sizing.md, with every input and formula; each input is also an option:

    .venv/bin/python benchmarks/sizing.py > docs/reference/sizing.md
    .venv/bin/python benchmarks/sizing.py --queries-s 200 --memory-bytes 900
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from console.cost.pricing import lambda_usd, price_list

MILLION = 1_000_000
GIB = 1024**3
MONTH_H, DAY_S = 730, 86_400
SIZES = (100_000, MILLION, 10 * MILLION, 100 * MILLION)

# The prices on this page, besides those of the nodes.
PRICES_SHOWN = (
    "lambda_gb_second_x86_64",
    "lambda_request",
    "api_request",
    "queue_request",
    "bucket_get",
    "disk_gb_month",
)


class Node(NamedTuple):
    """A machine for Qdrant."""

    name: str
    memory_gib: int
    cores: int

    @property
    def usd_hour(self) -> float:
        return price_list().usd(f"{self.name}_hour")


NODES = (
    Node("r7g.medium", 8, 1),
    Node("r7g.large", 16, 2),
    Node("r7g.xlarge", 32, 4),
    Node("r7g.2xlarge", 64, 8),
    Node("r7g.4xlarge", 128, 16),
)


class Inputs(NamedTuple):
    """Measured figures, then assumptions; SOURCES explains each."""

    memory_bytes: float = 1000.0
    disk_bytes: float = 2400.0
    rerank_bytes: float = 3844.0
    lookup_ms: float = 5.0
    search_ms: float = 100.0
    index_ms: float = 70.0
    function_gb: float = 1.73
    replicas: int = 2
    shard_images: int = 10 * MILLION
    queries_s: float = 10.0
    peak: float = 5.0
    queries: float = 2.0
    changed: float = 0.05
    index_functions: int = 5
    memory_headroom: float = 1.5
    disk_headroom: float = 2.0
    busy: float = 0.5
    batch: float = 10.0


SOURCES = {
    "memory_bytes": "memory of Qdrant's engine per image: `scale.py`, a million images",
    "disk_bytes": "disk per image, without what only reranking reads: `scale.py`",
    "rerank_bytes": "disk per image for descriptors and colours: `rerank.py`",
    "lookup_ms": "assumed: above the 4.5 that one query for ten neighbours takes in `scale.py`",
    "search_ms": "billed per search: above the 51 that `memory.py` measures on our machine, for a "
    "slower core and the network; not measured on Lambda",
    "index_ms": "billed per image: `index.py` measures 8 ms for a small image, a phone's photo "
    "takes 40; the rest is S3 and Qdrant; not measured on Lambda",
    "function_gb": "1,769 MB, one vCPU",
    "replicas": "copies of each image, on different nodes: one node may fail",
    "shard_images": "limit of images in one shard, so that its graph can be rebuilt in hours",
    "queries_s": "searches per second, mean over a month",
    "peak": "searches at the peak over the mean",
    "queries": "queries to Qdrant per search: the whole image, and its subject",
    "changed": "share of the images that are new each month",
    "index_functions": "concurrent functions, the template's `IndexConcurrency`",
    "memory_headroom": "for the system, its cache, and segments that are being rebuilt",
    "disk_headroom": "a segment exists twice while it is rebuilt; write-ahead log, snapshot",
    "busy": "share of a node's cores that searching may use at the peak",
    "batch": "messages per call of the index function",
}


class Plan(NamedTuple):
    images: int
    shards: int
    nodes: int
    node: Node
    memory_gib: float  # of all nodes together, like cores and disk_gb
    cores: float
    disk_gb: int
    searches: int  # search functions at the peak
    indexing_days: float
    node_usd: float  # per month, like the next three
    disk_usd: float
    search_usd: float
    index_usd: float

    @property
    def month_usd(self) -> float:
        return self.node_usd + self.disk_usd + self.search_usd + self.index_usd


def plan(images: int, given: Inputs) -> Plan:
    copies = images * given.replicas
    shards = math.ceil(images / given.shard_images)
    peak_s = given.queries_s * given.peak
    memory_gib = copies * given.memory_bytes * given.memory_headroom / GIB
    cores = peak_s * given.queries * shards * given.lookup_ms / 1000 / given.busy
    nodes, node = machines(memory_gib, cores, given.replicas, shards)
    disk = copies * (given.disk_bytes + given.rerank_bytes) * given.disk_headroom / 1e9
    disk_gb = 10 * nodes * math.ceil(disk / nodes / 10)
    return Plan(
        images=images,
        shards=shards,
        nodes=nodes,
        node=node,
        memory_gib=memory_gib,
        cores=cores,
        disk_gb=disk_gb,
        searches=math.ceil(peak_s * given.search_ms / 1000),
        indexing_days=images * given.index_ms / 1000 / given.index_functions / DAY_S,
        node_usd=nodes * node.usd_hour * MONTH_H,
        disk_usd=disk_gb * price_list().usd("disk_gb_month"),
        search_usd=given.queries_s * 3600 * MONTH_H * search_usd(given),
        index_usd=images * given.changed * index_usd(given),
    )


def machines(memory_gib: float, cores: float, replicas: int, shards: int) -> tuple[int, Node]:
    """The cheapest set of equal nodes that is large enough, each with as many shard copies.

    Raises SystemExit if even the largest nodes are too small.
    """
    copies = replicas * shards
    sets = [
        (count * node.usd_hour, count, node)
        for node in NODES
        for count in range(replicas, copies + 1)
        if copies % count == 0
        if count * node.memory_gib >= memory_gib and count * node.cores >= cores
    ]
    if not sets:
        raise SystemExit("no node is large enough: lower --shard-images, for more shards")
    _, count, node = min(sets)
    return count, node


def search_usd(given: Inputs) -> float:
    """One search: API Gateway, the Lambda request, and its duration."""
    usd = price_list().usd
    time_usd = lambda_usd(given.search_ms, round(given.function_gb * 1024))
    return usd("lambda_request") + time_usd + usd("api_request")


def index_usd(given: Inputs) -> float:
    """One image: the function, its message (sent, and received and deleted in a batch), and three
    requests to the bucket: head, get, and head again.
    """
    usd = price_list().usd
    time_usd = lambda_usd(given.index_ms, round(given.function_gb * 1024))
    queue = usd("queue_request") * (1 + 2 / given.batch)
    return usd("lambda_request") / given.batch + time_usd + queue + 3 * usd("bucket_get")


def page(given: Inputs) -> str:
    plans = [plan(images, given) for images in SIZES]
    nodes = [f"{n.name}: {n.memory_gib} GiB, {n.cores} cores; per hour" for n in NODES]
    prices = {name: price_list().usd(name) for name in PRICES_SHOWN}
    prices |= {name: node.usd_hour for name, node in zip(nodes, NODES, strict=True)}
    input_rows = [
        (f"`{name}`", f"{value:,.4g}", SOURCES[name]) for name, value in given._asdict().items()
    ]
    return TEXT.format(
        plans=table(row(each) for each in plans),
        costs=table(costs(each) for each in plans),
        inputs=table(input_rows),
        prices=table((name, f"{usd:.10f}".rstrip("0")) for name, usd in prices.items()),
        as_of=price_list().as_of,
        peak_s=given.queries_s * given.peak,
        given=given,
        **formulas(plan(10 * MILLION, given), given),
    )


def row(planned: Plan) -> tuple[str, ...]:
    return (
        f"{planned.images:,}",
        f"{planned.nodes} × {planned.node.name}",
        f"{planned.shards}",
        f"{planned.memory_gib / planned.nodes:.1f} of {planned.node.memory_gib} GiB",
        f"{planned.disk_gb // planned.nodes:,} GB",
        f"{planned.searches}",
        f"{planned.indexing_days:,.1f} days",
        f"${planned.month_usd:,.0f}",
    )


def costs(planned: Plan) -> tuple[str, ...]:
    parts = (planned.node_usd, planned.disk_usd, planned.search_usd, planned.index_usd)
    return (f"{planned.images:,}", *(f"${usd:,.0f}" for usd in parts))


def table(rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def formulas(planned: Plan, given: Inputs) -> dict[str, str]:
    """The formulas with the figures of one plan."""
    copies, peak_s = f"{planned.images:,} × {given.replicas}", f"{given.queries_s * given.peak:.0f}"
    disk_bytes = given.disk_bytes + given.rerank_bytes
    return {
        "memory": f"{copies} × {given.memory_bytes:,.0f} bytes × {given.memory_headroom} = "
        f"{planned.memory_gib:.1f} GiB",
        "disk": f"{copies} × {disk_bytes:,.0f} bytes × {given.disk_headroom} = "
        f"{planned.images * given.replicas * disk_bytes * given.disk_headroom / 1e9:,.0f} GB",
        "cores": f"{peak_s} × {given.queries} × {planned.shards} × "
        f"{given.lookup_ms:.1f} ms / {given.busy} = {planned.cores:.2f} cores",
        "searches": f"{peak_s} × {given.search_ms:.0f} ms = {planned.searches}",
        "initial": f"{planned.images:,} × {given.index_ms:.0f} ms / {given.index_functions} = "
        f"{planned.indexing_days:.1f} days",
        "search": f"${search_usd(given) * MILLION:.2f}",
        "index": f"${index_usd(given) * MILLION:.2f}",
    }


TEXT = """\
# Sizing

<!-- Printed by benchmarks/sizing.py: change its inputs, not this page. -->

How many Qdrant nodes an index needs, and what it costs in a month: with {given.queries_s:.0f} \
searches a second
on average and {peak_s:.0f} at the peak, every image on {given.replicas} nodes, and \
{given.changed:.0%} of the images new each month.

| images | Qdrant nodes | shards | memory per node | disk per node | search functions | initial \
indexing | a month |
|---:|---|---:|---:|---:|---:|---:|---:|
{plans}

The monthly cost by item:

| images | nodes | disks | searches | indexing |
|---:|---:|---:|---:|---:|
{costs}

A million searches cost {search}, a million indexed images {index}: API Gateway, functions, queue
and bucket requests. Storage of the images, logs and traffic are not included; [cost](cost.md) has
logs and traffic.

## Arithmetic

With the figures of ten million images:

- **Memory**: images × replicas × `memory_bytes` × `memory_headroom` =
  {memory}.
  int8 vectors, the graph and the payload indexes are in memory; original vectors and payload are
  on disk.
- **Disk**: images × replicas × (`disk_bytes` + `rerank_bytes`) × `disk_headroom` =
  {disk}.
- **Cores**: searches at the peak × `queries` × shards × `lookup_ms` / `busy` =
  {cores}. A search queries every shard, one replica of each.
- **Nodes**: the cheapest set of equal nodes with that memory and those cores, at least one per
  replica, and all with the same number of shard copies.
- **Concurrent search functions**: searches at the peak × `search_ms` = {searches}. An
  account may run 1,000 functions concurrently unless it asks for more.
- **Initial indexing**: images × `index_ms` / `index_functions` = {initial}.
  Ten times as many functions take a tenth of the time, as long as Qdrant builds the graph as fast
  (`graph_points_s` of `benchmarks/scale.py`).
- **A search**: API request + Lambda request + `search_ms` × `function_gb` × price of a GB-second.
- **An image**: Lambda request / `batch` + `index_ms` × `function_gb` × price of a GB-second + queue
  request × (1 + 2 / `batch`) + 3 reads of the bucket.

Replicas and shards are the Qdrant server's own settings for new collections:
`QDRANT__STORAGE__COLLECTION__REPLICATION_FACTOR`, and
`QDRANT__STORAGE__COLLECTION__SHARD_NUMBER_PER_NODE` if one per node is not enough. Set them before
the first image is indexed: a collection keeps its number of shards, and more shards mean a new
collection. Two nodes keep answering searches when one fails. Qdrant's nodes agree by majority, so
use three if collections must be changed while one is down.

## Inputs

`.venv/bin/python benchmarks/sizing.py --help` lists the options that change them.

| input | value | source |
|---|---:|---|
{inputs}

Memory and disk were measured with Qdrant's engine in one process and the bundled model's 256
dimensions, not with a server. A vector of D dimensions takes D bytes of memory and 4 × D bytes of
disk, and D more for its int8 copy; the rest does not depend on D.

## Prices

US dollars, us-east-1, on demand, public list prices as of {as_of}, without free tiers and taxes.
`console/cost/prices.json` has them with their sources. AWS's own pages could not be opened when
this was written: check a price before you rely on it.

| what | $ |
|---|---:|
{prices}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name, default in Inputs()._asdict().items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(default), default=default, help=SOURCES[name])
    print(page(Inputs(**vars(parser.parse_args()))), end="")


if __name__ == "__main__":
    main()
