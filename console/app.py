"""The `likeness` command: registers the commands, and turns known errors into one line."""

from __future__ import annotations

from importlib.metadata import version as metadata_version
from typing import Annotated

import typer
from rich.markup import escape

from likeness.errors import LikenessError

from .bundles.hub import HubError
from .client import ServiceError
from .commands import migrate, model
from .commands.adapt import adapt
from .commands.backfill import backfill
from .commands.calibrate import calibrate
from .commands.compare import compare
from .commands.cost import cost
from .commands.demo import demo
from .commands.doctor import doctor
from .commands.drop import drop
from .commands.evaluate import evaluate
from .commands.explain import explain
from .commands.index import ANY_ARGUMENTS, index
from .commands.reconcile import reconcile
from .commands.search import search
from .commands.serve import serve
from .commands.status import status
from .commands.upload import upload
from .terminal import err, out

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Visual search over the images of an S3 bucket.

    Start with `likeness demo`. Or run `likeness serve` in one terminal, and
    `likeness upload FOLDER` and `likeness search IMAGE` in another.

    LIKENESS_URL and LIKENESS_API_KEY name a deployed service, LIKENESS_BUCKET and
    LIKENESS_QUEUE_URL its bucket and queue.""",
)
for panel, commands in (
    ("Run and try", (demo, serve, drop, doctor)),
    ("Images", (upload, backfill, search, compare, status, reconcile)),
    ("Quality", (evaluate, calibrate, adapt, explain)),
    ("Cost", (cost,)),
):
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.add_typer(model.app, name="model", rich_help_panel="Models")
app.add_typer(migrate.app, name="migrate", rich_help_panel="Models")
app.command(hidden=True, add_help_option=False, context_settings=ANY_ARGUMENTS)(index)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(metadata_version("likeness"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; a known error is one line and exit code 1, not a traceback."""
    try:
        app()
    except (ServiceError, HubError, LikenessError, RuntimeError, OSError) as error:
        err.print(f"[red]error[/red] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from None
