"""Results of checks: what was checked, whether it is right, and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape


@dataclass(frozen=True)
class Finding:
    """`found` says what was seen; `fix`, if there is one, what to do about it.

    What is `ok` and has a fix works, but not as well as it could.
    """

    subject: str
    ok: bool
    found: str
    fix: str = ""


def print_findings(findings: Sequence[Finding], out: Console) -> bool:
    """Print one or two lines for each finding; returns whether all are right."""
    for finding in findings:
        out.print(f"{_mark(finding)} [bold]{finding.subject}[/bold]  {escape(finding.found)}")
        if finding.fix:
            out.print(f"      {escape(finding.fix)}")
    return all(finding.ok for finding in findings)


def _mark(finding: Finding) -> str:
    if not finding.ok:
        return "[red]wrong[/red]"
    return "[yellow]note [/yellow]" if finding.fix else "[green]ok   [/green]"
