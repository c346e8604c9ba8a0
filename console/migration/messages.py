"""What `likeness migrate` prints, and which command it names as the next step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ..terminal import out

if TYPE_CHECKING:
    from likeness.ports import VectorIndex

    from .comparison import Comparison
    from .filling import FillStatus
    from .lifecycle import Migration

_MAX_REJECTED, _MAX_OVERLAPS = 10, 5
_WITHOUT_NEXT = "PARAMETERS='NextModelLayerArn=' make deploy STAGE=…"


def print_next(step: str) -> None:
    out.print(f"[bold]next[/bold]  {step}", soft_wrap=True, highlight=False)


def print_status(index: VectorIndex, migration: Migration, status: FillStatus) -> None:
    searched = index.info().model
    table = Table("", "model", "points", "")
    for name, model in (("old", migration.source), ("new", migration.target)):
        points = index.for_model(model).info().points
        table.add_row(name, model, str(points), "searched" if model == searched else "")
    out.print(table)
    out.print(
        f"{status.share:.1%} filled: {status.equal} of {status.objects} objects, "
        f"{status.remaining} remain"
    )
    if status.rejected:
        out.print(f"[yellow]the new model rejects {len(status.rejected)}[/yellow]")
    for key, reason in list(status.rejected.items())[:_MAX_REJECTED]:
        out.print(f"  [yellow]{escape(key)}[/yellow]  {escape(reason)}")
    if searched == migration.target:
        print_next("`likeness migrate finish`, or `likeness migrate rollback`")
    elif status.remaining:
        print_next("wait; if the number no longer changes, `likeness migrate fill`")
    else:
        print_next("`likeness migrate compare`, then `likeness migrate switch`")


def print_comparison(found: Comparison) -> None:
    out.print(f"share of the {found.k} nearest that both models return: {found.overlap} on average")
    old, new = found.found
    out.print(f"share of {found.edited} edited copies that find their original first:")
    out.print(f"  old model {old}")
    out.print(f"  new model {new}")
    out.print("neighbours change most for")
    for each in found.overlaps[:_MAX_OVERLAPS]:
        out.print(f"  {each.overlap:>4.0%} kept  {escape(each.key)}")


def after_start(layer_arn: str | None, local: bool) -> str:
    if local:
        return (
            "stop `likeness serve` with Ctrl-C and start it again: it loads both models and checks "
            "every object; then `likeness migrate status`"
        )
    if layer_arn:
        return (
            f"PARAMETERS='NextModelLayerArn={layer_arn}' make deploy STAGE=…, "
            "then `likeness migrate fill`"
        )
    return "the functions need the bundle: repeat this command with --layer NAME to publish it"


def after_finish(migration: Migration, dropped: str, local: bool) -> str:
    if dropped == migration.target:
        return "nothing more to do" if local else f"deploy without the new model: {_WITHOUT_NEXT}"
    if local:
        return f"from now on start it with LIKENESS_MODEL_DIR={migration.bundle} likeness serve"
    return f"`likeness model package {migration.bundle}`, then {_WITHOUT_NEXT}"
