"""The deployed functions' own entry points, as the local service runs them.

Their package is called `functions` in the repository, where the template's handlers name it, and
`likeness_functions` in a wheel: a package named `functions` could clash with another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# The composition roots read the environment when they are imported, so import this module late.
if TYPE_CHECKING or __name__.startswith("console."):
    from functions.index.app import handler as index_handler
    from functions.search.app import app as search_app
else:
    from likeness_functions.index.app import handler as index_handler
    from likeness_functions.search.app import app as search_app

__all__ = ["index_handler", "search_app"]
