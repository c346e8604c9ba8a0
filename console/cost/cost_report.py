"""Dollars for a million queries and images, from measured milliseconds; as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ..client import Client
from .pricing import (
    ARCHITECTURES,
    Architecture,
    Measurements,
    Run,
    gate_usd,
    index_usd,
    month_usd,
    price_list,
    search_usd,
)

_QUERIES = 30
_Price = Callable[[Run, Measurements, Architecture], Mapping[str, float]]


class Cost(NamedTuple):
    """What a million cost with one setting: dollars by architecture and by cost item."""

    run: Run
    usd: Mapping[str, Mapping[str, float]]

    @property
    def total(self) -> Mapping[str, float]:
        return {name: sum(parts.values()) for name, parts in self.usd.items()}


def measure(client: Client, photo: bytes, memory_mb: int, progress: Progress) -> Run:
    """Search thirty times, and take the times that the service reports, without cold starts."""
    took_ms = []
    task = progress.add_task("searching", total=_QUERIES)
    for _ in range(_QUERIES):
        answer = client.search_image(photo)
        if not answer["took_ms"]["cold_start"]:
            took_ms.append(answer["took_ms"]["total"])
        progress.advance(task)
    took_ms.sort()
    mean, p95 = sum(took_ms) / len(took_ms), took_ms[int(0.95 * len(took_ms))]
    return Run(memory_mb, 1, round(mean, 2), round(p95, 2))


def costs(measured: Measurements) -> dict[str, list[Cost]]:
    """The costs of queries and of images, for each setting in the order of measurement."""

    def priced(runs: Sequence[Run], price: _Price) -> list[Cost]:
        return [Cost(run, {a: price(run, measured, a) for a in ARCHITECTURES}) for run in runs]

    return {
        "queries": priced(measured.search, search_usd),
        "images": priced(measured.index, index_usd),
    }


def best(found: Sequence[Cost]) -> tuple[Cost, Cost]:
    """The cheapest setting and the fastest; of equal ones, that with less memory."""
    cheapest = min(found, key=lambda cost: (cost.total["x86_64"], cost.run.memory_mb))
    fastest = min(found, key=lambda cost: (cost.run.billed_ms, cost.run.memory_mb))
    return cheapest, fastest


def as_json(measured: Measurements) -> dict[str, Any]:
    """Everything that `print_report` prints, for --json."""
    prices = price_list()
    million = {
        name: [
            {
                "memory_mb": cost.run.memory_mb,
                "threads": cost.run.threads,
                "billed_ms": cost.run.billed_ms,
                "usd": {a: {**parts, "total": cost.total[a]} for a, parts in cost.usd.items()},
            }
            for cost in found
        ]
        for name, found in costs(measured).items()
    }
    return {
        "measured": measured.how,
        "prices": {"region": prices.region, "as_of": prices.as_of},
        "a_million": million,
        "duplicate_gate": {a: gate_usd(measured, a) for a in ARCHITECTURES},
        "a_month": _month(measured),
        "calls": {
            "query": {"qdrant": measured.search_qdrant_calls},
            "image": {"qdrant": measured.index_qdrant_calls},
        },
    }


def print_report(measured: Measurements, out: Console) -> None:
    prices = price_list()
    out.print(f"milliseconds: {measured.how}", soft_wrap=True)
    out.print(f"prices: {prices.region}, as of {prices.as_of} (sources: console/cost/prices.json)")
    for name, found in costs(measured).items():
        if found:
            out.print(_settings_table(name, found))
            out.print(_items_table(name, best(found)[0]))
            if name == "images":
                out.print(_gate_table(measured))
    month = _month(measured)
    table = Table(
        "a month, even without requests", "$", title="Qdrant's node and the bucket are extra"
    )
    for part, usd in month.items():
        table.add_row(part, f"{usd:.2f}")
    table.add_row("[bold]total[/bold]", f"[bold]{sum(month.values()):.2f}[/bold]")
    out.print(table)


def _month(measured: Measurements) -> dict[str, float]:
    """Monthly cost with the memory that is cheapest for queries, or else for images."""
    found = next(found for found in costs(measured).values() if found)
    return month_usd(best(found)[0].run.memory_mb)


def _settings_table(name: str, found: Sequence[Cost]) -> Table:
    cheapest, fastest = best(found)
    table = Table("MB", "threads", "billed ms", *(f"$ {a}" for a in ARCHITECTURES), "")
    table.title = f"a million {name}"
    for cost in found:
        marks = [
            word for word, one in (("cheapest", cheapest), ("fastest", fastest)) if one is cost
        ]
        run = cost.run
        usd = (f"{cost.total[a]:.2f}" for a in ARCHITECTURES)
        row = (str(run.memory_mb), str(run.threads), f"{run.billed_ms:.1f}", *usd)
        table.add_row(*row, ", ".join(marks))
    return table


def _gate_table(measured: Measurements) -> Table:
    parts = gate_usd(measured, "x86_64")
    table = Table("of these, the duplicate gate", "$")
    for part, usd in [*parts.items(), ("[bold]total[/bold]", sum(parts.values()))]:
        table.add_row(part, f"{usd:.2f}")
    return table


def _items_table(name: str, cost: Cost) -> Table:
    table = Table(f"of a million {name} at {cost.run.memory_mb} MB", "$")
    for part, usd in cost.usd["x86_64"].items():
        table.add_row(part, f"{usd:.2f}")
    return table
