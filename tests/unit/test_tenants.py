"""Which tenant owns an object. What a tenant sees: tests/functions/test_tenants.py."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from likeness.errors import NotIndexed
from likeness.records import ObjectRef
from likeness.tenants import Tenants, TenantStore, is_name
from tests.fake_bucket import FakeBucket
from tests.pictures import png


@pytest.mark.parametrize(
    ("prefix", "key", "owner"),
    [
        ("", "acme/a.jpg", "acme"),
        ("", "acme/uploads/x/a.jpg", "acme"),
        ("", "acme/", "acme"),
        ("", "acme//a.jpg", "acme"),
        ("", "acme/../other/a.jpg", "acme"),
        ("", "a.jpg", None),
        ("", "/a.jpg", None),
        ("", "../a.jpg", None),
        ("", "a b/a.jpg", None),
        ("", "é/a.jpg", None),
        ("img/", "img/acme/a.jpg", "acme"),
        ("img/", "acme/a.jpg", None),
        ("img/", "img/a.jpg", None),
        ("img/", "imgacme/a.jpg", None),
        ("img-", "img-acme/a.jpg", "acme"),
    ],
)
def test_the_first_segment_below_the_prefix_is_the_owner(
    prefix: str, key: str, owner: str | None
) -> None:
    assert Tenants(prefix).owner(key) == owner


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.@:=+-]{0,5}", fullmatch=True)


@given(st.text(max_size=4), NAMES, st.text(max_size=8))
def test_a_tenant_owns_what_is_in_its_folder(prefix: str, tenant: str, rest: str) -> None:
    tenants = Tenants(prefix)
    assert is_name(tenant)
    assert tenants.owner(tenants.folder(tenant) + rest) == tenant


@given(st.text(max_size=4), st.text(max_size=12), NAMES)
def test_a_tenant_owns_nothing_outside_its_folder(prefix: str, key: str, tenant: str) -> None:
    tenants = Tenants(prefix)
    assert (tenants.owner(key) == tenant) == key.startswith(tenants.folder(tenant))


def test_a_tenants_bucket_has_only_its_own_objects() -> None:
    bucket = FakeBucket()
    for key in ("acme/1.png", "acme-2/1.png", "acme", "other/acme/1.png"):
        bucket.put(key, png(1))
    store = TenantStore(bucket, Tenants(), "acme")
    own = bucket.ref("acme/1.png")
    state = store.head(own)
    assert state
    assert store.read(own, state.etag, 10_000).data == png(1)
    assert own.key in store.presign_download(own, 60)
    for key in ("acme-2/1.png", "acme", "other/acme/1.png", "none"):
        refused(store, bucket.ref(key), state.etag)
    store.delete(own)
    assert bucket.head(own) is None
    assert bucket.head(bucket.ref("acme-2/1.png"))


def refused(store: TenantStore, ref: ObjectRef, etag: str) -> None:
    assert store.head(ref) is None
    for act in (
        lambda: store.read(ref, etag, 10_000),
        lambda: store.delete(ref),
        lambda: store.presign_download(ref, 60),
        lambda: store.presign_upload(ref, "image/png", {}, 1, 60),
    ):
        with pytest.raises(NotIndexed):
            act()
