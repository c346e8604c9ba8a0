"""Which collections on a shared server belong to an alias."""

from __future__ import annotations

from likeness.adapters.qdrant_layout import Layout
from likeness.filters import Schema

MODEL, OTHER = "0123456789abcdef", "f" * 16
LAYOUT = Layout("images", Schema())
STRANGERS = [
    MODEL,  # without a prefix
    f"images-2-{MODEL}",
    f"my-images-{MODEL}",
    "images",
    "images-notes-2",
    f"images-{MODEL}0",
    f"images-{MODEL.upper()}",
]


def test_models_are_those_of_the_alias_alone() -> None:
    assert LAYOUT.models([*STRANGERS, f"images-{MODEL}", "images-notes"]) == [MODEL]


def test_an_alias_owns_its_models_collections_and_its_notes() -> None:
    own = [f"images-{MODEL}", f"images-{OTHER}", "images-notes"]
    assert LAYOUT.own([*STRANGERS, *reversed(own)]) == own
    assert LAYOUT.own(STRANGERS) == []
