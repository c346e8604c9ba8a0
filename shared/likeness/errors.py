"""Every error the library raises.

    LikenessError
    ├── InputError                  fault of the caller or the uploader: permanent
    │   ├── InvalidRequest          a malformed request
    │   ├── UnknownFilterKey        a filter on an undeclared key
    │   ├── ModelMismatch           a vector of another model
    │   ├── NotIndexed              no live image has this id or key
    │   ├── FetchRefused            an image URL that is not allowed or cannot be fetched
    │   ├── Forbidden               the caller is not permitted to do this
    │   │   ├── NoTenant            the authorizer named no tenant
    │   │   └── NotAWriter          the caller may only search
    │   └── ImageError              bytes that cannot be indexed or searched
    │       ├── ImageTooLarge       more bytes than allowed
    │       │   └── QueryTooLarge   more bytes than a request can carry
    │       ├── NotAnImage          no known image signature, or undecodable
    │       ├── UnsupportedFormat   an image format that is not enabled
    │       ├── TruncatedImage      the file ends early
    │       ├── TooManyPixels       width × height over the limit
    │       └── NoDetail            a single flat colour: nothing to compare
    ├── ConfigurationError          our fault: a wrong setting, bundle or collection
    │   └── ModelBundleError        model.json or its files are invalid
    ├── ObjectChanged               the object was replaced or deleted while it was read
    └── Unavailable                 a dependency is down: retry
        ├── StoreUnavailable        S3
        ├── QueueFull               too many hints wait: more would delay live events
        └── IndexUnavailable        Qdrant
            ├── IndexRefused        Qdrant refused the request
            ├── IndexUnauthorized   no API key, or a wrong one
            ├── IndexForbidden      the API key does not permit this
            ├── IndexFull           Qdrant's memory or disk quota is reached
            ├── IndexMissing        the alias names no collection yet
            ├── IndexOfOtherModel   the alias names a collection of another model
            └── IndexContended      other writers kept winning: the queue retries

`slug` is the stable, public name of an error: the last part of a problem's `type`, and the
`reason` of a rejected object.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "FetchRefused",
    "Forbidden",
    "ImageError",
    "ImageTooLarge",
    "IndexContended",
    "IndexForbidden",
    "IndexFull",
    "IndexMissing",
    "IndexOfOtherModel",
    "IndexRefused",
    "IndexUnauthorized",
    "IndexUnavailable",
    "InputError",
    "InvalidRequest",
    "LikenessError",
    "ModelBundleError",
    "ModelMismatch",
    "NoDetail",
    "NoTenant",
    "NotAWriter",
    "NotAnImage",
    "NotIndexed",
    "ObjectChanged",
    "QueryTooLarge",
    "QueueFull",
    "StoreUnavailable",
    "TooManyPixels",
    "TruncatedImage",
    "Unavailable",
    "UnknownFilterKey",
    "UnsupportedFormat",
]


class LikenessError(Exception):
    slug = "error"


class InputError(LikenessError):
    slug = "invalid-input"


class InvalidRequest(InputError):
    slug = "invalid-request"


class UnknownFilterKey(InputError):
    slug = "unknown-filter-key"


class ModelMismatch(InputError):
    slug = "model-mismatch"


class NotIndexed(InputError):
    slug = "not-indexed"


class FetchRefused(InputError):
    slug = "fetch-refused"


class Forbidden(InputError):
    slug = "forbidden"


class NoTenant(Forbidden):
    slug = "no-tenant"


class NotAWriter(Forbidden):
    slug = "not-a-writer"


class ImageError(InputError):
    slug = "bad-image"


class ImageTooLarge(ImageError):
    slug = "image-too-large"


class QueryTooLarge(ImageTooLarge):
    pass


class NotAnImage(ImageError):
    slug = "not-an-image"


class UnsupportedFormat(ImageError):
    slug = "unsupported-format"


class TruncatedImage(ImageError):
    slug = "truncated-image"


class TooManyPixels(ImageError):
    slug = "too-many-pixels"


class NoDetail(ImageError):
    slug = "no-detail"


class ConfigurationError(LikenessError):
    slug = "misconfigured"

    def __str__(self) -> str:
        """In ASCII: Lambda's runtime client drops an init error that is not Latin-1."""
        return super().__str__().encode("ascii", "backslashreplace").decode()


class ModelBundleError(ConfigurationError):
    slug = "bad-model-bundle"


class ObjectChanged(LikenessError):
    slug = "object-changed"


class Unavailable(LikenessError):
    """`retry_after_s`: after how long a retry may succeed, where that is known."""

    slug = "unavailable"

    def __init__(self, message: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StoreUnavailable(Unavailable):
    slug = "store-unavailable"


class QueueFull(Unavailable):
    slug = "queue-full"


class IndexUnavailable(Unavailable):
    slug = "index-unavailable"


class IndexRefused(IndexUnavailable):
    pass


class IndexUnauthorized(IndexUnavailable):
    slug = "index-unauthorized"


class IndexForbidden(IndexUnavailable):
    slug = "index-forbidden"


class IndexFull(IndexUnavailable):
    slug = "index-full"


class IndexMissing(IndexUnavailable):
    slug = "index-missing"


class IndexOfOtherModel(IndexUnavailable):
    slug = "model-mismatch"


class IndexContended(IndexUnavailable):
    slug = "index-contended"
