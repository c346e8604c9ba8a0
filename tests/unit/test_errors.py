"""The error tree is the one that its module draws."""

from __future__ import annotations

import inspect
import re
from collections import Counter

import pytest

from likeness import errors
from likeness.errors import LikenessError

TREE_LINE = re.compile(r"^    ((?:│   |    )*)(?:[├└]── )?(\w+)(?:\s{2,}.*)?$")
# Callers get the same slug for an index and for a vector of another model.
SHARED_SLUGS = {
    "image-too-large": {"ImageTooLarge", "QueryTooLarge"},
    "model-mismatch": {"ModelMismatch", "IndexOfOtherModel"},
}


def classes() -> dict[str, type[LikenessError]]:
    return {
        name: found
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, Exception)
    }


def drawn_tree() -> dict[str, str | None]:
    """Each name in the docstring's tree, and the name it hangs from."""
    parents: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        matched = TREE_LINE.match(line)
        if not matched:
            continue
        depth = len(matched[1]) // 4 + ("── " in line)
        path = [*path[:depth], matched[2]]
        parents[matched[2]] = path[-2] if depth else None
    return parents


def test_the_public_names_are_the_classes_in_order() -> None:
    assert errors.__all__ == sorted(classes())


def test_the_docstring_draws_the_class_tree() -> None:
    tree = {
        name: None if found is LikenessError else found.__base__.__name__  # type: ignore[union-attr]
        for name, found in classes().items()
    }
    assert drawn_tree() == tree


def test_every_error_has_one_root_and_one_parent() -> None:
    for found in classes().values():
        assert issubclass(found, LikenessError)
        assert len(found.__bases__) == 1


@pytest.mark.parametrize("name", errors.__all__)
def test_every_class_has_a_slug_in_kebab_case(name: str) -> None:
    slug = classes()[name].slug
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", slug)


def test_slugs_are_unique_except_those_shared_on_purpose() -> None:
    counted = Counter(found.slug for found in classes().values())
    shared = {
        slug: {name for name, found in classes().items() if found.slug == slug}
        for slug, count in counted.items()
        if count > 1
    }
    assert shared == SHARED_SLUGS
