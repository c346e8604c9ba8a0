"""The service as one caller sees it: the whole gallery, or only the caller's tenant."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from likeness.errors import ConfigurationError, FetchRefused
from likeness.gallery import Gallery
from likeness.queries import MAX_QUERY_BYTES
from likeness.records import ObjectRef
from likeness.search import Searcher
from likeness.searchers import Searchers
from likeness.settings import Settings
from likeness.tenants import Tenants

T = TypeVar("T")
# An image's URL and the most bytes to read → its bytes.
Fetch = Callable[[str, int], bytes]
# Writes one line of the answer log.
Record = Callable[[bytes], None]


class Service:
    """Everything that an operation works with. `gallery` reads the collection behind the alias;
    whatever depends on a model goes through `run`.
    """

    def __init__(
        self,
        searchers: Searchers,
        gallery: Gallery,
        settings: Settings,
        fetch: Fetch | None,
        record: Record,
    ) -> None:
        self._searchers = searchers
        self._tenant: str | None = None
        self._fetch = fetch
        self._searches = itertools.count()
        self.gallery = gallery
        self.settings = settings
        self.upload_prefix = settings.upload_prefix
        self.record = record

    def for_tenant(self, tenant: str) -> Service:
        """The same service for one tenant: operations on it cannot reach anything else."""
        prefix, service = self.settings.prefix, copy.copy(self)
        service._tenant = tenant
        service.gallery = self.gallery.for_tenant(tenant)
        folder = Tenants(prefix).folder(tenant)
        service.upload_prefix = folder + self.settings.upload_prefix.removeprefix(prefix)
        return service

    async def run(self, work: Callable[[Searcher], T]) -> T:
        """Do work in a thread, all of it with one model's searcher over what the caller may see."""
        return await asyncio.to_thread(self._searchers.run, work, self._tenant)

    @property
    def models(self) -> list[str]:
        """The models that can answer, the current one first."""
        return self._searchers.models

    def is_first_search(self) -> bool:
        """Whether this search is the first one of this process. Each search asks once."""
        return next(self._searches) == 0

    def fetch(self, url: str) -> bytes:
        """The bytes of an `image_url`. Raises FetchRefused, or an ImageError for too many."""
        if self._fetch is None:
            raise FetchRefused(
                "image_url is disabled: LIKENESS_IMAGE_URL_HOSTS names the hosts to fetch from"
            )
        return self._fetch(url, MAX_QUERY_BYTES)

    def bucket(self) -> str:
        """Raises ConfigurationError where none is configured."""
        if self.settings.bucket is None:
            raise ConfigurationError("LIKENESS_BUCKET is not set: there is no bucket to read")
        return self.settings.bucket

    def bucket_origin(self) -> str | None:
        """Scheme and host that uploads are sent to; None where there is no bucket."""
        if self.settings.bucket is None:
            return None
        ref = ObjectRef(self.settings.bucket, f"{self.upload_prefix}any")
        url, _ = self.gallery.open_store().presign_upload(ref, "image/jpeg", {}, 1, 1)
        return "{0.scheme}://{0.netloc}".format(urlsplit(url))
