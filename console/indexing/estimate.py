"""How many objects a backfill would index, how long it would take and what it would cost."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ..cost.pricing import lambda_usd, price_list

# Objects on one page of a bucket's listing.
LISTING_PAGE = 1000
# Messages of one invocation of the index function, and of one call to SQS.
_BATCH = 10
# Each image takes a HeadObject before and after the write, and a GetObject.
_READS = 3


@dataclass(frozen=True)
class Plan:
    """`objects` will be indexed and have `size` bytes; `skipped` cannot be images."""

    objects: int = 0
    size: int = 0
    skipped: int = 0

    @property
    def listed(self) -> int:
        return self.objects + self.skipped


@dataclass(frozen=True)
class Capacity:
    """Measured milliseconds for each image, and the index function's concurrency and memory."""

    ms: float
    functions: int
    memory_mb: int


def expected_s(plan: Plan, capacity: Capacity) -> float:
    return plan.objects * capacity.ms / 1000 / capacity.functions


def expected_cost(plan: Plan, capacity: Capacity) -> dict[str, float]:
    """Dollars by AWS service, without free tiers and without Qdrant."""
    usd = price_list().usd
    calls = plan.objects / _BATCH
    time_usd = plan.objects * lambda_usd(capacity.ms, capacity.memory_mb)
    listings = plan.listed / LISTING_PAGE
    return {
        "lambda": time_usd + calls * usd("lambda_request"),
        "sqs": 3 * calls * usd("queue_request"),  # sent, received, deleted
        "s3": plan.objects * _READS * usd("bucket_get") + listings * usd("bucket_put"),
    }


def print_estimate(plan: Plan, capacity: Capacity, out: Console) -> None:
    cost = expected_cost(plan, capacity)
    duration = _duration(expected_s(plan, capacity))
    table = Table(show_header=False, box=None)
    for name, text in (
        ("objects", f"{plan.objects:,}, and {plan.skipped:,} that cannot be images"),
        ("bytes", f"{plan.size:,}"),
        ("time", f"{duration} with {capacity.functions} index functions"),
        ("cost", f"$ {sum(cost.values()):.2f}"),
        ("", ", ".join(f"{service} {dollars:.2f}" for service, dollars in cost.items())),
    ):
        table.add_row(f"[dim]{name}[/dim]", text)
    out.print(table)
    prices = price_list()
    out.print(
        f"[dim]at {capacity.ms:g} ms an image, {capacity.memory_mb} MB, x86_64; list prices of "
        f"{prices.region}, {prices.as_of}; without Qdrant and free tiers[/dim]",
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 1:
        return "less than a minute"
    return f"{minutes:.0f} minutes" if hours < 2 else f"{hours:.0f} hours"
