"""Reports of an evaluation: tables for the terminal, and one self-contained HTML page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape as plain
from rich.table import Table

from ..html_report import document, thumbnail
from .evaluator import Miss
from .feedback_evaluation import CLICK_WEIGHT, FIRST, FeedbackEvaluation
from .metrics import Estimate, Reliability
from .query_runner import SHOWN
from .results import Evaluation, RelevanceMetrics, Verdicts
from .stages import DIVERSITY, TRIED

PAGE = "report.html"
_METRICS = {"r_at_1": "R@1", "r_at_5": "R@5", "r_at_10": "R@10", "mean_ap": "mAP"}
_UNREADABLE_SHOWN = 5
_NO_CALIBRATION = (
    "The model has no calibration.json: results are ordered by cosine alone, and there are no "
    "verdicts. `likeness calibrate` makes one."
)
_TRIED = (
    f"In no profile: {', '.join(stage.name for stage in TRIED)}. Diversity ({DIVERSITY}) is an "
    "option of any search: it never moves the first result; its cost shows in mAP."
)
_REPEATED = (
    "Queries are repeated as plain searches, without their original filter or box. Results without "
    "feedback count as wrong: callers judge what they were shown, in the order they saw."
)
_SAME_CORE = (
    "The search function alone, assuming that Lambda's core is as fast as this machine's: compare "
    "only runs on one machine."
)
_DIFFERENT = (
    "Images count as different as far as the dataset says: two photos of one scene are a false "
    "claim here."
)

# --- the terminal ---


def show(evaluation: Evaluation, out: Console) -> None:
    setup = evaluation.setup
    synthetic = ", queries are edited images" if setup.synthetic else ""
    out.print(
        f"[bold]{plain(setup.dataset)}[/bold]  {setup.gallery} images, "
        f"model {plain(evaluation.model_name)} {evaluation.model}{synthetic}"
    )
    for found in evaluation.found:
        _show_found(found, out)
    if evaluation.edits:
        table = Table("R@1 by edit", *evaluation.latency, "queries", box=SIMPLE_HEAD)
        for edit in evaluation.edits:
            values = (f"{value.mean:.3f}" for value in edit.r_at_1.values())
            table.add_row(f"{edit.name} [dim]{edit.level}[/dim]", *values, str(edit.queries))
        out.print(table)
    if evaluation.verdicts:
        _show_verdicts(evaluation.verdicts, out)
        out.print(f"[dim]{plain(_calibrated_on(evaluation))} {_DIFFERENT}[/dim]")
    if evaluation.calibration is None:
        out.print(f"[yellow]{_NO_CALIBRATION}[/yellow]")
    _show_latency(evaluation, out)
    for line in evaluation.unreadable[:_UNREADABLE_SHOWN]:
        out.print(f"  [yellow]skipped[/yellow] {plain(line)}")
    if (more := len(evaluation.unreadable) - _UNREADABLE_SHOWN) > 0:
        out.print(f"  … and {more} more")


def show_feedback(evaluation: FeedbackEvaluation, out: Console) -> None:
    out.print(
        f"[bold]feedback[/bold]  {evaluation.opinions} events, model "
        f"{plain(evaluation.model_name)} {evaluation.model}"
    )
    found = evaluation.profiles
    right = Table("right answers", "R@1", "R@5", "R@10", box=SIMPLE_HEAD)
    wrong = Table(
        "not relevant", "before the first right", f"in the first {FIRST}", box=SIMPLE_HEAD
    )
    for profile, each in found.items():
        rates = (each.r_at_1, each.r_at_5, each.r_at_10)
        right.add_row(profile, *(_short(rate) if rate else "–" for rate in rates))
        counts = (each.wrong_before, each.wrong_in_first)
        wrong.add_row(
            profile, *(f"{_short(n.mean)}, {n.queries} queries" if n else "–" for n in counts)
        )
    out.print(right)
    out.print(wrong)
    out.print(
        f"{evaluation.queries} queries repeated: {evaluation.judged} with a relevant result; "
        f"{evaluation.clicked} with clicks only, weighted {CLICK_WEIGHT:g}"
    )
    out.print(
        f"click-through: {evaluation.clicked_requests} of {evaluation.requests} requests with any "
        "feedback"
    )
    for reason, count in evaluation.left_out.items():
        out.print(f"  [yellow]skipped[/yellow] {count} of {evaluation.opinions} events: {reason}")
    if evaluation.calibration is None:
        out.print(f"[yellow]{_NO_CALIBRATION}[/yellow]")
    out.print(f"[dim]Intervals: 95 %. {_REPEATED}[/dim]")


def _show_found(found: RelevanceMetrics, out: Console) -> None:
    table = Table(f"by {found.relevance}", *_METRICS.values(), box=SIMPLE_HEAD)
    for profile, metrics in found.profiles.items():
        table.add_row(profile, *(_short(getattr(metrics, name)) for name in _METRICS))
    out.print(table)
    stages = Table("stage", "R@1", "gain in R@1", "in mAP", "over", box=SIMPLE_HEAD)
    for stage in found.stages:
        gain = _signed(stage.gain) if stage.gain else ""
        in_map = f"{stage.mean_ap_gain.mean:+.3f}" if stage.mean_ap_gain else ""
        stages.add_row(stage.name, f"{stage.r_at_1.mean:.3f}", gain, in_map, stage.over)
    out.print(stages)
    out.print(f"[dim]{_counted(found)} Intervals: 95 %. {_TRIED}[/dim]")


def _show_verdicts(verdicts: Verdicts, out: Console) -> None:
    levels = _claimed_levels(verdicts)
    called = (f"called {level.replace('_', ' ')}" for level in levels)
    table = Table("true level", *called, "right", box=SIMPLE_HEAD)
    for level, row in verdicts.confusion.items():
        counts = (str(row.get(name, "")) for name in levels)
        table.add_row(level.replace("_", " "), *counts, f"{verdicts.right[level]:.1%}")
    out.print(table)
    for line in _false_claims(verdicts):
        out.print(line)
    out.print(
        f"expected calibration error of “same item or closer”: {verdicts.reliability.error:.3f}"
    )


def _show_latency(evaluation: Evaluation, out: Console) -> None:
    latency = evaluation.latency.values()
    table = Table("milliseconds, p50 / p95", *evaluation.latency, box=SIMPLE_HEAD)
    for stage in _stages(evaluation):
        spreads = (each.stages[stage] for each in latency)
        table.add_row(stage, *(f"{spread.p50:.1f} / {spread.p95:.1f}" for spread in spreads))
    table.add_row("$ per million", *(f"{each.usd_a_million:.2f}" for each in latency))
    out.print(table)
    out.print(f"[dim]{_SAME_CORE}[/dim]")


# --- both ---


def _stages(evaluation: Evaluation) -> list[str]:
    """Timed stages, the same in every profile."""
    return list(next(iter(evaluation.latency.values())).stages)


def _short(value: Estimate) -> str:
    """In 13 characters, so that four fit side by side."""
    ends = (f"{end:.2f}".removeprefix("0") for end in (value.low, value.high))
    low, high = (end.replace("1.00", "1.0") for end in ends)
    return f"{value.mean:.3f} [dim]{low}–{high}[/dim]"


def _signed(value: Estimate) -> str:
    return f"{value.mean:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"


def _counted(found: RelevanceMetrics) -> str:
    unanswered = f", {found.without_answer} have no right answer" if found.without_answer else ""
    return f"{found.queries} queries{unanswered}."


def _calibrated_on(evaluation: Evaluation) -> str:
    return f"Calibrated on {evaluation.calibration}: results on those images are too good."


def _claimed_levels(verdicts: Verdicts) -> list[str]:
    return list(dict.fromkeys(name for row in verdicts.confusion.values() for name in row))


def _false_claims(verdicts: Verdicts) -> Iterable[str]:
    for claims, where in ((verdicts.shown, f"first {SHOWN}"), (verdicts.reranked, "reranked")):
        pairs = max(1, claims.pairs)
        yield (
            f"of {claims.pairs} different images among the {where} results, "
            f"{claims.copy_or_closer} ({claims.copy_or_closer / pairs:.2%}) are called a copy or "
            f"closer, {claims.edited_or_closer} ({claims.edited_or_closer / pairs:.2%}) edited or "
            "closer"
        )


# --- the page ---

_STYLE = """
svg { width: 100%; max-width: 40rem; display: block; font: 12px system-ui, sans-serif }
svg text { fill: currentColor } svg .soft { opacity: .7 }
svg .axis { stroke: currentColor; stroke-opacity: .25 }
svg .spread { stroke: currentColor; stroke-width: 1.5; fill: none }
.none { fill: #8a8f98 } .fast { fill: #3f7fd0 } .precise { fill: #1e9a5a } .point { fill: #3f7fd0 }
.worse { fill: #c8452f }
h2 { margin: 2.2rem 0 .4rem; font-size: 1.15rem } h3 { margin: 1.2rem 0 .2rem; font-size: 1rem }
p { margin: .4rem 0 } .note { font-size: .85rem; opacity: .75 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
td, th { padding: .25rem .7rem; text-align: right; white-space: nowrap;
         border-bottom: 1px solid color-mix(in srgb, currentColor 15%, transparent) }
td:first-child, th:first-child { text-align: left; padding-left: 0 }
.miss { display: grid; grid-template-columns: repeat(3, minmax(0, 11rem)); gap: .8rem;
        padding: .8rem 0; border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent) }
.miss figure { width: auto }
"""
_WIDTH, _LEFT, _RIGHT = 420, 110, 250  # of a chart's 420 units: where its bars begin and end
_STEP = 20  # from one bar to the next


class _Bar(NamedTuple):
    """`kind` is a class of the style sheet; low and high are the ends of the interval."""

    label: str
    value: float
    low: float
    high: float
    text: str
    kind: str


def page(evaluation: Evaluation, misses: Sequence[Miss]) -> str:
    """The images of the misses are embedded in the page."""
    setup = evaluation.setup
    lead = (
        f"{escape(setup.dataset)} · {setup.gallery} images · model "
        f"{escape(evaluation.model_name)} {escape(evaluation.model)}"
        + (" · queries are edited images" if setup.synthetic else "")
    )
    parts = [f"<p>{escape(_NO_CALIBRATION)}</p>"] if evaluation.calibration is None else []
    for found in evaluation.found:
        parts += _metrics_section(found)
    if evaluation.edits:
        parts += ["<h2>R@1 by edit, precise</h2>", _edits(evaluation)]
    if evaluation.verdicts:
        parts += _verdicts_section(evaluation.verdicts)
        parts.append(f"<p class=note>{escape(_calibrated_on(evaluation))}</p>")
    parts += _latency_section(evaluation)
    parts += _misses_section(misses)
    if evaluation.unreadable:
        lines = "".join(f"<li>{escape(line)}" for line in evaluation.unreadable)
        parts.append(f"<h2>Skipped files</h2><ul>{lines}</ul>")
    return document("Likeness evaluation", lead, "".join(parts), _STYLE)


def _metrics_section(found: RelevanceMetrics) -> list[str]:
    parts = [
        f"<h2>Accuracy, by {escape(found.relevance)}</h2>",
        f"<p class=note>{_counted(found)} Lines: 95 % intervals.</p>",
    ]
    for name, title in _METRICS.items():
        bars = [_share(profile, getattr(m, name), profile) for profile, m in found.profiles.items()]
        parts.append(_chart(title, bars, 0, 1))
    for title, name in (("R@1", "gain"), ("mAP", "mean_ap_gain")):
        gained = [(s.name, gain) for s in found.stages if (gain := getattr(s, name))]
        most = max((abs(end) for _, g in gained for end in (g.low, g.high)), default=0)
        bars = [
            _Bar(stage, g.mean, g.low, g.high, _signed(g), "precise" if g.mean >= 0 else "worse")
            for stage, g in gained
        ]
        parts.append(
            _chart(f"Gain of each stage in {title}", bars, -max(most, 0.01), max(most, 0.01))
        )
    over = "; ".join(f"{stage.name} over {stage.over}" for stage in found.stages if stage.over)
    return [
        *parts,
        f"<p class=note>{escape(over)}, query by query. {_TRIED}</p>",
    ]


def _edits(evaluation: Evaluation) -> str:
    bars = [
        _share(edit.name, value, "precise")
        for edit in evaluation.edits
        for profile, value in edit.r_at_1.items()
        if profile == "precise"
    ]
    return _chart("", bars, 0, 1)


def _verdicts_section(verdicts: Verdicts) -> list[str]:
    levels = _claimed_levels(verdicts)
    head = "".join(f"<th>called {escape(level.replace('_', ' '))}" for level in levels)
    rows = "".join(
        f"<tr><td>{escape(level.replace('_', ' '))}"
        + "".join(f"<td>{row.get(name, '')}" for name in levels)
        + f"<td>{verdicts.right[level]:.1%}"
        for level, row in verdicts.confusion.items()
    )
    claims = "".join(f"<p>{escape(line)}.</p>" for line in _false_claims(verdicts))
    return [
        "<h2>Verdicts</h2><div class=wide><table>",
        f"<tr><th>true level{head}<th>right{rows}</table></div>{claims}",
        f"<p class=note>{_DIFFERENT}</p>",
        "<h3>Reliability of the probabilities</h3>",
        _reliability(verdicts.reliability),
        "<p class=note>Of “same item or closer”, for each query's original and one wrong result. "
        "On the diagonal, a claim with 80 % is true in 80 of 100 cases; larger dots are more "
        "pairs. "
        f"Expected calibration error: {verdicts.reliability.error:.3f}.</p>",
    ]


def _latency_section(evaluation: Evaluation) -> list[str]:
    latency = evaluation.latency
    most = max(each.stages["total"].p95 for each in latency.values())
    parts = ["<h2>Latency</h2><p class=note>Milliseconds: bars are p50, lines end at p95.</p>"]
    for stage in _stages(evaluation):
        spreads = [(profile, each.stages[stage]) for profile, each in latency.items()]
        bars = [
            _Bar(profile, s.p50, s.p50, s.p95, f"{s.p50:.1f} / {s.p95:.1f}", profile)
            for profile, s in spreads
        ]
        parts.append(_chart(stage, bars, 0, most))
    rows = "".join(
        f"<tr><td>{escape(profile)}<td>{each.mean_ms:.1f} ms<td>${each.usd_a_million:.2f}"
        for profile, each in latency.items()
    )
    return [
        *parts,
        "<h3>Cost per million queries</h3><div class=wide><table>"
        f"<tr><th>profile<th>mean<th>Lambda{rows}</table></div><p class=note>{_SAME_CORE} "
        "1,769 MB, x86, us-east-1; API, traffic and Qdrant not included.</p>",
    ]


def _misses_section(misses: Sequence[Miss]) -> list[str]:
    if not misses:
        return []
    rows = "".join(
        f"<section class=miss>{_figure(miss.query, miss.name)}"
        f"{_figure(miss.first.read_bytes(), f'first result: {miss.first.name}')}"
        f"{_figure(miss.right.read_bytes(), f'right, at rank {miss.rank}: {miss.right.name}')}"
        "</section>"
        for miss in misses
    )
    return [f"<h2>Worst misses, precise</h2>{rows}"]


def _figure(data: bytes, caption: str) -> str:
    text = escape(caption)
    image = f'<img alt="{text}" src="{thumbnail(data)}">'
    return f"<figure>{image}<figcaption>{text}</figcaption></figure>"


# --- charts: inline SVG ---


def _share(label: str, value: Estimate, kind: str) -> _Bar:
    return _Bar(label, value.mean, value.low, value.high, str(value), kind)


def _chart(title: str, bars: Sequence[_Bar], low: float, high: float) -> str:
    """Horizontal bars from zero, with a line over each interval."""

    def at(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low)

    rows = []
    for number, bar in enumerate(bars):
        y = number * _STEP
        start, end = sorted((at(0), at(bar.value)))
        rows.append(
            f'<text x="{_LEFT - 6}" y="{y + 14}" text-anchor="end">{escape(bar.label)}</text>'
            f'<rect class="{bar.kind}" x="{start:.1f}" y="{y + 3}" width="{end - start:.1f}" '
            f'height="14" rx="2"/>'
            f'<path class="spread" d="M{at(bar.low):.1f} {y + 10}H{at(bar.high):.1f}"/>'
            f'<text class="soft" x="{_RIGHT + 8}" y="{y + 14}">{escape(bar.text)}</text>'
        )
    height = len(bars) * _STEP
    axis = f'<path class="axis" d="M{at(0):.1f} 0V{height}"/>'
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return (
        f'{heading}<svg viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">{axis}{"".join(rows)}</svg>'
    )


def _reliability(found: Reliability) -> str:
    """Claimed probability on the x axis, observed frequency on the y axis."""
    side, left, below = 220, 34, 34
    most = max((b.count for b in found.bins), default=1)

    def x(value: float) -> float:
        return left + side * value

    def y(value: float) -> float:
        return 8 + side * (1 - value)

    grid = "".join(
        f'<path class="axis" d="M{x(0)} {y(tick)}H{x(1)}M{x(tick)} {y(0)}V{y(1)}"/>'
        f'<text class="soft" x="{x(tick)}" y="{y(0) + 15}" text-anchor="middle">{tick:g}</text>'
        f'<text class="soft" x="{x(0) - 5}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in (0, 0.5, 1)
    )
    dots = "".join(
        f'<circle class="point" cx="{x(b.claimed):.1f}" cy="{y(b.held):.1f}" '
        f'r="{3 + 6 * math.sqrt(b.count / most):.1f}"><title>{b.count} pairs: claimed '
        f"{b.claimed:.2f}, observed {b.held:.2f}</title></circle>"
        for b in found.bins
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {side + below + 8}" role="img" '
        f'aria-label="claimed probability and observed frequency">{grid}'
        f'<path class="axis" d="M{x(0)} {y(0)}L{x(1)} {y(1)}"/>{dots}'
        f'<text class="soft" x="{x(0.5)}" y="{y(0) + 30}" text-anchor="middle">claimed</text>'
        f'<text class="soft" x="{x(1) + 10}" y="{y(0.5)}">observed</text></svg>'
    )
