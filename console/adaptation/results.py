"""What `likeness adapt` found: as JSON, on the terminal, and in the card of the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..evaluation.calibration_report import HeldOutResult
from ..evaluation.metrics import Estimate
from .learning import Plan
from .searching import Change

_SHOWN = 6  # plans


class Scored(Struct, frozen=True):
    """R@1 of a plan on products that it was not fitted to."""

    plan: Plan
    r_at_1: float


class Adaptation(Struct, frozen=True):
    """The report of `likeness adapt --json`.

    outcome: whether an adapter gains on products left out and loses nothing; only then there is a
    `bundle`, unless nothing was to be written. changes: what the adapter changes, products left out
    first. cross_validation: the plans that were tried, the best first.
    """

    outcome: Literal["gain", "no gain", "loss"]
    reason: str
    model: str
    model_name: str
    source: str
    images: int
    products: int
    left_out: Mapping[str, int]
    seed: int
    plan: Plan | None
    cross_validation: Sequence[Scored]
    changes: Sequence[Change]
    bundle: str | None = None
    fingerprint: str | None = None
    calibration: HeldOutResult | None = None


def show(found: Adaptation, out: Console) -> None:
    out.print(f"{found.images} images of {found.products} products, {escape(found.source)}")
    for reason, count in found.left_out.items():
        out.print(f"[yellow]left out[/yellow]  {count}  {escape(reason)}")
    table = Table("form, shrinkage, rank", "R@1 on products left out", box=SIMPLE_HEAD)
    for each in found.cross_validation[:_SHOWN]:
        table.add_row(str(each.plan), f"{each.r_at_1:.3f}")
    out.print(table)
    table = Table("", "R@1", "gain", "mAP", box=SIMPLE_HEAD)
    for change in found.changes:
        name, _, *cells, _ = _cells(change)
        table.add_row(name, *cells)
    out.print(table)
    style = "green" if found.outcome == "gain" else "red"
    out.print(f"[{style}]{found.outcome}[/{style}]  {escape(found.reason)}", soft_wrap=True)


def card(found: Adaptation) -> str:
    """MODEL_CARD.md of the bundle."""
    return "\n".join(_card(found)) + "\n"


def _card(found: Adaptation) -> Iterator[str]:
    yield f"# {found.model_name}, adapted"
    yield ""
    yield (
        f"The network of the bundle {found.model_name} ({found.model}) with a linear map behind "
        f"its embedding, made by `likeness adapt` from {found.images} images of {found.products} "
        f"products ({found.source}), seed {found.seed}."
    )
    yield ""
    yield (
        "x → normalise((x − μ) · W), W = (S + λ · tr(S) / D · I)^(−1/2): S is the scatter of "
        "images around their product's mean (form scatter) or of the differences between photos "
        "and catalogue picture (form pairs). `adapter.npz` holds μ and W."
    )
    if found.left_out:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in found.left_out.items())
        yield f"\nLeft out: {reasons}."
    yield f"\nChosen: {found.plan}."
    yield "\n## Chosen by cross-validation over products\n"
    yield "| form, shrinkage, rank | R@1 on products left out |\n|---|---|"
    yield from (f"| {each.plan} | {each.r_at_1:.3f} |" for each in found.cross_validation)
    yield "\n## Before and after\n"
    yield "| | queries | R@1 | gain | mAP | gain |\n|---|---|---|---|---|---|"
    yield from (f"| {' | '.join(_cells(each))} |" for each in found.changes)
    yield (
        "\nGains with their 95 % intervals, over products or originals. For “products left out” "
        "neither the map nor the choice of form, λ and rank knew the products."
    )
    if found.calibration:
        yield "\n## Verdicts\n"
        yield "Calibrated with the adapted network; of the half of the images that was held out:\n"
        yield "| | called right |\n|---|---|"
        yield from (
            f"| {level} | {share:.1%} |" for level, share in found.calibration.right.items()
        )
        false = found.calibration.false_edited
        yield f"| different things called `edited` or closer | {false:.2%} |"


def _cells(change: Change) -> tuple[str, ...]:
    return (
        change.name,
        str(change.queries),
        _arrow(change.r_at_1),
        _signed(change.r_at_1_gain),
        _arrow(change.mean_ap),
        _signed(change.mean_ap_gain),
    )


def _arrow(values: tuple[float, float]) -> str:
    return f"{values[0]:.3f} → {values[1]:.3f}"


def _signed(gain: Estimate) -> str:
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
