"""The hidden `likeness index`: an error that names the two commands that replaced it."""

from __future__ import annotations

import typer

from ..terminal import err

# Whatever follows `likeness index`, options too, is accepted and ignored.
ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


def index() -> None:
    err.print(
        "[red]error[/red] `likeness index` has become two commands: `likeness upload FOLDER` for "
        "files on this machine, `likeness backfill s3://bucket/prefix` for objects in a bucket",
        soft_wrap=True,
        highlight=False,
    )
    raise typer.Exit(2)
