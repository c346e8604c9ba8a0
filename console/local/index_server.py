"""The Qdrant server that holds the local service's index, where `--qdrant` names one.

Others may use the server too. So each data folder has an alias of its own there, which it
remembers, and nothing is written under an alias that holds another bucket's points.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from likeness.adapters.index import open_index
from likeness.errors import IndexForbidden, IndexUnauthorized, IndexUnavailable
from likeness.model import load_spec
from likeness.ports import VectorIndex
from likeness.settings import Settings

from ..client import ServiceError
from ..indexing.contents import check_only_bucket
from .aws import BUCKET
from .data_folder import DEFAULT_DATA

_FILE = "index-server.json"
# Where a cluster has many collections, each change of one takes it seconds.
_TIMEOUT_S = 30
_KEY = "set LIKENESS_QDRANT_API_KEY, or --qdrant-key, to a key that may create collections"
_ADDRESS = "--qdrant takes the address of Qdrant's REST API, such as http://localhost:6333"


@dataclass(frozen=True)
class IndexServer:
    """`key` is its API key, if it needs one."""

    url: str
    key: str | None = None

    def environment(self, alias: str) -> dict[str, str]:
        """The settings with which the functions find the index, whatever else is exported."""
        return {
            "QDRANT_URL": self.url,
            "QDRANT_API_KEY": self.key or "",
            "QDRANT_API_KEY_SECRET_ARN": "",
            "LIKENESS_ALIAS": alias,
        }

    def drop_command(self, data: Path) -> str:
        folder = "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"
        return f"likeness drop --qdrant {shlex.quote(self.url)}{folder}"


def remembered_alias(data: Path) -> str | None:
    """The folder's alias, None before its first use. Raises ServiceError for a damaged file."""
    file = data / _FILE
    if not file.exists():
        return None
    try:
        return str(json.loads(file.read_text())["alias"])
    except (ValueError, KeyError, TypeError) as error:
        raise ServiceError(f"{file} is damaged; delete it for a new alias") from error


def prepare(server: IndexServer, data: Path, env: Mapping[str, str]) -> dict[str, str]:
    """Create the folder's alias and collections, where missing; returns the functions' settings.

    `env` holds the other settings. Raises as `opened` does, and ConfigurationError for a server
    that is too old.
    """
    alias = remembered_alias(data) or f"{BUCKET}-{secrets.token_hex(6)}"
    with opened(server, alias, env) as index:
        index.check_server()
        (data / _FILE).write_text(json.dumps({"alias": alias}))
        _create_collection(index, Settings.from_env({**env, **server.environment(alias)}))
    return server.environment(alias)


def _create_collection(index: VectorIndex, settings: Settings) -> None:
    """Now, and not with the first image, so that what the server refuses is seen at the start."""
    spec, models = load_spec(settings.model_dir), index.models()
    if models and spec.fingerprint not in models:
        return  # after a migration, the bundle's collection may have been dropped for good
    patches = spec.patches if settings.keep_patches else None
    index.prepare(spec.fingerprint, spec.embedding.dim, patches.dim if patches else None)


@contextlib.contextmanager
def opened(server: IndexServer, alias: str, env: Mapping[str, str] = {}) -> Iterator[VectorIndex]:
    """The index under a folder's alias, once it is certain that nothing there is another's.

    Raises ServiceError where no Qdrant server answers or it refuses, ConfigurationError where
    something under the alias is another service's.
    """
    settings = {**env, **server.environment(alias), "QDRANT_TIMEOUT_S": str(_TIMEOUT_S)}
    try:
        with contextlib.closing(open_index(Settings.from_env(settings))) as index:
            check_only_bucket(index, BUCKET, f"alias {alias} at {server.url}")
            yield index
    except IndexUnavailable as error:
        refused = isinstance(error, IndexUnauthorized | IndexForbidden)
        raise ServiceError(f"{server.url}: {error}\n{_KEY if refused else _ADDRESS}") from error
