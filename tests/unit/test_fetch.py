"""The fetcher against a real TLS server on loopback, and against every way around its rules."""

from __future__ import annotations

import gzip
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import repeat
from typing import Any

import pytest

from likeness.adapters import fetch
from likeness.adapters.fetch import Address, Fetcher, is_public, resolve
from likeness.errors import ConfigurationError, FetchRefused, ImageTooLarge
from tests.fault_server import closed_port
from tests.tls_server import IMAGE, Keys, Peer, head, serve, whole

MAX_BYTES = 1000


class Resolver:
    """Returns its answers in turn, the last one repeatedly, and records the names it resolved."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)

    def __call__(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def nowhere(name: str) -> Sequence[str]:
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def chunked(*parts: bytes) -> list[bytes]:
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
    return [head(transfer_encoding="chunked"), *chunks]


@contextmanager
def dropping_port() -> Iterator[int]:
    """A port that leaves each connection unanswered, because its queue is full."""
    with ExitStack() as opened, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = opened.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


Open = Callable[..., Fetcher]


@pytest.fixture
def fetcher(keys: Keys) -> Open:
    """A fetcher of images.test, which resolves to loopback and counts as public."""

    def make(hosts: Sequence[str] = ("images.test",), **options: Any) -> Fetcher:
        usual = {
            "resolve": Resolver(["127.0.0.1"]),
            "is_public": lambda address: True,
            "ssl_context": keys.trusting(),
        }
        return Fetcher(hosts, **{**usual, **options})

    return make


def fetch_from(make: Open, peer: Peer, name: str = "images.test", **options: Any) -> bytes:
    fetcher = make(**{"hosts": [name], "ports": [peer.port], **options})
    return fetcher.fetch(f"https://{name}:{peer.port}/a.jpg", MAX_BYTES)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(FetchRefused) as refused:
        call()
    # an error that carried the library's words would leak them into a log or a problem
    assert refused.value.__cause__ is None
    assert refused.value.__context__ is None or refused.value.__suppress_context__
    return str(refused.value)


def took_s(call: Callable[[], object]) -> float:
    start_s = time.monotonic()
    call()
    return time.monotonic() - start_s


# What is fetched


def test_an_image_of_a_listed_host_is_fetched(keys: Keys, fetcher: Open) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        got = fetcher(ports=[peer.port]).fetch(
            f"https://images.test:{peer.port}/a%20b/ü.jpg?size=1&q=é#part", MAX_BYTES
        )
    assert got == IMAGE
    lines = peer.requests[0].lower().splitlines()
    assert lines[0] == "get /a%20b/%c3%bc.jpg?size=1&q=%c3%a9 http/1.1"
    assert f"host: images.test:{peer.port}" in lines
    assert "accept-encoding: identity" in lines


def test_a_url_without_a_path_asks_for_the_root(keys: Keys, fetcher: Open) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        fetcher(ports=[peer.port]).fetch(f"https://images.test:{peer.port}?size=1", MAX_BYTES)
    assert peer.requests[0].startswith("GET /?size=1 HTTP/1.1\r\n")


def test_a_chunked_response_is_joined(keys: Keys, fetcher: Open) -> None:
    pieces = [*chunked(IMAGE[:5], IMAGE[5:]), b"0\r\n\r\n"]
    with serve(pieces, keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer) == IMAGE


def test_a_response_without_a_length_ends_with_its_connection(keys: Keys, fetcher: Open) -> None:
    with serve([head(), IMAGE], keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer) == IMAGE


def test_a_peer_that_keeps_the_connection_open_is_not_waited_for(keys: Keys, fetcher: Open) -> None:
    with serve([whole(), 30.0], keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer) == IMAGE


def test_one_fetcher_may_be_used_by_several_threads_again_and_again(
    keys: Keys, fetcher: Open
) -> None:
    got: list[bytes] = []
    with serve([whole()], keys.serving("signed")) as peer:
        shared = fetcher(ports=[peer.port])

        def fetch_twice() -> None:
            got.extend(shared.fetch(f"https://images.test:{peer.port}/", 99) for _ in range(2))

        threads = [threading.Thread(target=fetch_twice) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert got == [IMAGE] * 8


def test_no_proxy_is_used(keys: Keys, fetcher: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, closed_port())
    with serve([whole()], keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer) == IMAGE


def test_an_ipv6_address_is_connected_to(keys: Keys, fetcher: Open) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 on loopback")
    with serve([whole()], keys.serving("signed"), host="::1") as peer:
        assert fetch_from(fetcher, peer, resolve=Resolver(["::1"])) == IMAGE


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        ("images.test", "IMAGES.test"),
        ("Images.Test.", "images.test"),
        ("images.test", "images.test."),
        ("*.cdn.test", "a.cdn.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("xn--bcher-kva.test", "BÜCHER.test"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_a_host_is_compared_in_its_normal_form(
    keys: Keys, fetcher: Open, listed: str, asked: str
) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer, name=asked, hosts=[listed]) == IMAGE


# URLs that are refused before name resolution


REFUSED_URLS = {
    "http://images.test/": "only https",
    "file:///etc/passwd": "only https",
    "gopher://images.test/": "only https",
    "images.test/a.jpg": "only https",
    "https://user:pass@images.test/": "user name or a password",
    "https://user@images.test/": "user name or a password",
    "https://@images.test/": "user name or a password",
    "https://images.test@evil.test/": "user name or a password",
    "https://images.test:80/": "port 80",
    "https://images.test:0/": "port 0",
    "https://images.test:22/": "port 22",
    "https://images.test:8443/": "port 8443",
    "https://images.test:443:80/": "not a valid URL",
    "https://evil.test#@images.test/": "evil.test is not an allowed host",
    "https://evil.test?@images.test/": "evil.test is not an allowed host",
    "https://evil.test/@images.test/": "evil.test is not an allowed host",
    "https://images.test%40evil.test/": "not a valid URL",
    "https://images.test%00.evil.test/": "not a valid URL",
    "https://localhost/": "localhost is not an allowed host",
    "https://0177.0.0.1/": "not a valid URL",
    "https://[::ffff:127.0.0.1]/": "is not an allowed host",
    "https://[::1%25eth0]/": "is not an allowed host",
    "https://images.test:99999/": "not a valid URL",
    "https://images.test:x/": "not a valid URL",
    "https://93.184.216.34/": "93.184.216.34 is not an allowed host",
    "https://169.254.169.254/latest/meta-data/": "169.254.169.254 is not an allowed host",
    "https://[2606:4700::1111]/": "2606:4700::1111 is not an allowed host",
    "https://[::1]/": "::1 is not an allowed host",
    "https://127.1/": "not a valid URL",
    "https://2130706433/": "not a valid URL",
    "https://0x7f.0x1/": "not a valid URL",
    "https://１２７.0.0.1/": "not a valid URL",
    "https://other.test/": "other.test is not an allowed host",
    "https://images.test.evil.test/": "images.test.evil.test is not",
    "https://sub.images.test/": "sub.images.test is not",
    "https://evil-cdn.test/": "evil-cdn.test is not",
    "https://cdn.test/": "cdn.test is not",
    "https://.cdn.test/": "not a valid URL",
    "https://a..cdn.test/": "not a valid URL",
    "https://images.test../": "not a valid URL",
    "https://іmages.test/": "xn--mages-m2e.test is not",  # the first letter is Cyrillic
    "https://ｉmages.test/": "not a valid URL",  # full width, which IDNA folds
    "https://images。test/": "not a valid URL",  # an ideographic full stop, which IDNA folds
    "https://imagesß.test/": "not a valid URL",  # IDNA 2003 maps it to ss, IDNA 2008 does not
    "https://" + "ü" * 64 + ".test/": "not a valid URL",
    "https://" + "a." * 200 + "cdn.test/": "not a valid URL",
    "https://\ud800.cdn.test/": "not a valid URL",
    "https://a%2ecdn.test/": "not a valid URL",
    "https://evil.test\\.cdn.test/": "not a valid URL",
    "https://images.test/\r\nx-evil: 1": "not a valid URL",
    "https://images\t.test/": "not a valid URL",
    " https://images.test/": "not a valid URL",
    "https://[::1/": "not a valid URL",
    "https:///a.jpg": "not a valid URL",
    "https:images.test": "not a valid URL",
    "": "only https",
    "https://images.test/" + "a" * 9000: "8192 characters",
    "https://images.test/" + "🖼" * 900: "8192 characters",
}


@pytest.mark.parametrize(("url", "why"), REFUSED_URLS.items(), ids=lambda text: ascii(text)[:40])
def test_a_url_that_is_not_allowed_is_refused_before_name_resolution(url: str, why: str) -> None:
    resolver = Resolver(["127.0.0.1"])
    fetcher = Fetcher(
        ["images.test", "*.cdn.test"], resolve=resolver, is_public=lambda address: False
    )
    assert why in refusal(lambda: fetcher.fetch(url, MAX_BYTES))
    assert resolver.asked == []


@pytest.mark.parametrize("name", ["a.cdn.test", "a.b.c.cdn.test", "evil-.cdn.test", "images.test"])
def test_subdomains_of_a_wildcard_are_allowed_at_any_depth(name: str) -> None:
    resolver = Resolver([])
    fetcher = Fetcher(["images.test", "*.cdn.test"], resolve=resolver)
    refusal(lambda: fetcher.fetch(f"https://{name}/", MAX_BYTES))
    assert resolver.asked == [name]


def test_without_any_host_fetching_is_switched_off() -> None:
    fetcher = Fetcher([], resolve=nowhere)
    assert "switched off" in refusal(lambda: fetcher.fetch("https://images.test/", MAX_BYTES))


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "**.cdn.test",
        "a.*.test",
        "https://cdn.test",
        "cdn.test:443",
        "*.0.0.1",
        "a b",
    ],
)
def test_an_invalid_host_in_the_list_is_a_configuration_error(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="not a valid host"):
        Fetcher(["images.test", entry])


def test_a_string_instead_of_a_list_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Fetcher("images.test")


# Where the connection goes


PUBLIC = {
    "8.8.8.8",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
}
NOT_PUBLIC = {
    "127.0.0.1",
    "127.255.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "169.254.170.2",
    "100.64.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "192.0.0.1",
    "192.0.2.1",
    "192.88.99.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "224.0.0.1",
    "232.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::8.8.8.8",
    "fe80::",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "100::1",
    "2001:db8::1",
    "2001:20::1",
    "3fff::1",
    "2002:7f00:1::",
    "::ffff:0:10.0.0.1",
    "2001:0:7f00:1::",
    "2002:0a00:0001::",
    "2002:808:808::",
    "::ffff:10.0.0.1",
    "::ffff:100.64.0.1",
    "::ffff:169.254.169.254",
    "::ffff:224.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::c058:6301",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::6440:1",
    "64:ff9b:1::808:808",
}


@pytest.mark.parametrize("text", sorted(PUBLIC | NOT_PUBLIC))
def test_an_address_is_public_if_it_and_embedded_addresses_are(text: str) -> None:
    assert is_public(ip_address(text)) == (text in PUBLIC)


def test_by_default_loopback_is_refused(keys: Keys) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        fetcher = Fetcher(
            ["images.test"],
            resolve=Resolver(["127.0.0.1"]),
            ssl_context=keys.trusting(),
            ports=[peer.port],
        )
        url = f"https://images.test:{peer.port}/"
        assert "public addresses only" in refusal(lambda: fetcher.fetch(url, MAX_BYTES))
    assert peer.connections == 0


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1", "127.0.0.2"], ["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "no"], []]
)
def test_a_single_address_that_is_not_public_is_enough_to_refuse(
    keys: Keys, fetcher: Open, addresses: list[str]
) -> None:
    def only_one(address: Address) -> bool:
        return str(address) == "127.0.0.1"

    with serve([whole()], keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer, is_public=only_one) == IMAGE
        why = refusal(
            lambda: fetch_from(fetcher, peer, is_public=only_one, resolve=Resolver(addresses))
        )
    assert "public addresses only" in why
    assert peer.connections == 1


def test_a_name_is_resolved_once_and_the_checked_address_is_connected_to(
    keys: Keys, fetcher: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(["127.0.0.1"], ["127.0.0.2"])
    looked_up: list[object] = []
    real = socket.getaddrinfo

    def watched(host: Any, *rest: Any, **options: Any) -> Any:
        looked_up.append(host)
        return real(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    with serve([whole()], keys.serving("signed")) as peer:
        looked_up.clear()
        assert fetch_from(fetcher, peer, resolve=resolver) == IMAGE
        assert peer.connections == 1
        assert set(looked_up) <= {"127.0.0.1"}
    assert resolver.asked == ["images.test"]


def test_errors_do_not_tell_which_internal_names_exist(keys: Keys, fetcher: Open) -> None:
    def inside(address: Address) -> bool:
        return False

    with serve([whole()], keys.serving("signed")) as peer:
        open_port = refusal(lambda: fetch_from(fetcher, peer, is_public=inside))
        unknown = refusal(lambda: fetch_from(fetcher, peer, is_public=inside, resolve=nowhere))
    closed = refusal(lambda: fetch_from(fetcher, peer, is_public=inside))
    assert open_port == closed == unknown
    assert peer.connections == 0


def test_the_systems_own_resolver_gives_plain_addresses() -> None:
    assert resolve("127.0.0.1") == ["127.0.0.1"]
    assert resolve("::1") == ["::1"]


# Who is on the other side


def test_a_certificate_for_another_name_is_refused(keys: Keys, fetcher: Open) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        why = refusal(lambda: fetch_from(fetcher, peer, name="other.test"))
    assert why == "other.test has no valid certificate for that name"
    assert peer.requests == []


def test_a_self_signed_certificate_is_refused(keys: Keys, fetcher: Open) -> None:
    with serve([whole()], keys.serving("unsigned")) as peer:
        why = refusal(lambda: fetch_from(fetcher, peer))
    assert "no valid certificate" in why
    assert peer.requests == []


def test_by_default_an_unknown_certificate_authority_is_refused(keys: Keys, fetcher: Open) -> None:
    with serve([whole()], keys.serving("signed")) as peer:
        assert "certificate" in refusal(lambda: fetch_from(fetcher, peer, ssl_context=None))


# What is refused of an answer


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ("404 Not Found", "HTTP 404"),
        ("500 Internal Server Error", "HTTP 500"),
        ("204 No Content", "HTTP 204"),
        ("206 Partial Content", "HTTP 206"),
        ("304 Not Modified", "HTTP 304: redirects are not followed"),
    ],
)
def test_a_status_other_than_200_is_in_the_message(
    keys: Keys, fetcher: Open, status: str, why: str
) -> None:
    with serve([whole(b"s3cr3t", status)], keys.serving("signed")) as peer:
        assert refusal(lambda: fetch_from(fetcher, peer)) == f"images.test answered with {why}"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Same", "308 Same"])
def test_a_redirect_is_not_followed(keys: Keys, fetcher: Open, status: str) -> None:
    with serve([], keys.serving("signed")) as peer:
        location = f"https://images.test:{peer.port}/s3cr3t"
        peer.pieces = [whole(b"s3cr3t", status, location=location)]
        why = refusal(lambda: fetch_from(fetcher, peer))
    assert f"HTTP {status[:3]}: redirects are not followed" in why
    assert "s3cr3t" not in why
    assert len(peer.requests) == 1


@pytest.mark.parametrize("length", [MAX_BYTES + 1, 10**12])
def test_a_length_over_the_limit_is_refused_before_the_body_arrives(
    keys: Keys, fetcher: Open, length: int
) -> None:
    with (
        serve([head(content_length=length), 30.0], keys.serving("signed")) as peer,
        pytest.raises(ImageTooLarge, match=r"maximum is .* MiB"),
    ):
        fetch_from(fetcher, peer)


@pytest.mark.parametrize(
    "pieces",
    [[head(), *repeat(b"x" * 100, 11), 30.0], [*chunked(*repeat(b"x" * 100, 11)), 30.0]],
    ids=["no length", "chunks"],
)
def test_a_body_over_the_limit_is_cut_off(
    keys: Keys, fetcher: Open, pieces: list[bytes | float]
) -> None:
    with (
        serve(pieces, keys.serving("signed")) as peer,
        pytest.raises(ImageTooLarge, match=r"maximum is .* MiB"),
    ):
        fetch_from(fetcher, peer)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_body_of_exactly_the_limit_is_accepted(keys: Keys, fetcher: Open, lengths: bool) -> None:
    body = b"x" * MAX_BYTES
    pieces = [whole(body)] if lengths else [head(), body]
    with serve(pieces, keys.serving("signed")) as peer:
        assert fetch_from(fetcher, peer) == body


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", ""])
def test_a_compressed_response_is_refused_and_not_decompressed(
    keys: Keys, fetcher: Open, encoding: str
) -> None:
    bomb = gzip.compress(bytes(10_000_000))[:MAX_BYTES]
    with serve([whole(bomb, content_encoding=encoding)], keys.serving("signed")) as peer:
        assert "compressed" in refusal(lambda: fetch_from(fetcher, peer))


@pytest.mark.parametrize(
    "pieces",
    [
        [head(content_length=99), IMAGE],
        chunked(IMAGE),
        [head(transfer_encoding="chunked"), b"s3cr3t\r\n"],
        [b"SSH-2.0-OpenSSH s3cr3t\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"x-s3cr3t: 1\r\n" * 200 + b"\r\n"],
        [b"HTTP/1.1 200 OK\r\nx: " + b"s3cr3t" * 20_000],
        [],
    ],
    ids=["cut short", "no last chunk", "no chunk", "not HTTP", "headers", "long header", "closed"],
)
def test_an_incomplete_response_is_refused_without_quoting_it(
    keys: Keys, fetcher: Open, pieces: list[bytes]
) -> None:
    with serve(pieces, keys.serving("signed")) as peer:
        why = refusal(lambda: fetch_from(fetcher, peer))
    assert why == "images.test did not send a complete response"


def test_a_port_where_nobody_listens_is_refused(fetcher: Open) -> None:
    port = int(closed_port().rpartition(":")[2])
    why = refusal(lambda: fetcher(ports=[port]).fetch(f"https://images.test:{port}/", 9))
    assert why == "images.test did not send a complete response"


# Timeouts


TRICKLES = {
    "late headers": [30.0],
    "headers byte by byte": [b"HTTP/1.1 200 OK\r\nx: ", *[b"x", 0.1] * 100],
    "early answers": [b"HTTP/1.1 100 Continue\r\n\r\n", 0.1] * 100,
    "late body": [head(content_length=99), 30.0],
    "body byte by byte": [head(content_length=99), *[b"x", 0.1] * 99],
    "body without end": [head(), *[b"x", 0.1] * 100],
    "chunk size byte by byte": [head(transfer_encoding="chunked"), *[b"0", 0.1] * 100],
}


@pytest.mark.parametrize("pieces", TRICKLES.values(), ids=TRICKLES)
def test_a_slow_response_times_out(keys: Keys, fetcher: Open, pieces: list[bytes | float]) -> None:
    with serve(pieces, keys.serving("signed")) as peer:
        why: list[str] = []
        lasted_s = took_s(
            lambda: why.append(refusal(lambda: fetch_from(fetcher, peer, timeout_s=1.0)))
        )
    assert why == ["images.test did not send the image in time"]
    assert 0.9 < lasted_s < 3
    assert len(peer.requests) == 1


@pytest.mark.parametrize(("connect_s", "whole_s"), [(0.5, 30.0), (30.0, 0.5)])
def test_a_peer_that_never_completes_the_handshake_times_out(
    fetcher: Open, monkeypatch: pytest.MonkeyPatch, connect_s: float, whole_s: float
) -> None:
    monkeypatch.setattr(fetch, "_CONNECT_TIMEOUT_S", connect_s)
    with serve([30.0]) as peer:
        lasted_s = took_s(lambda: refusal(lambda: fetch_from(fetcher, peer, timeout_s=whole_s)))
    assert 0.4 < lasted_s < 3
    assert peer.connections == 1


@pytest.mark.parametrize(("connect_s", "whole_s"), [(0.5, 30.0), (30.0, 0.5)])
def test_a_host_that_drops_packets_times_out(
    fetcher: Open, monkeypatch: pytest.MonkeyPatch, connect_s: float, whole_s: float
) -> None:
    monkeypatch.setattr(fetch, "_CONNECT_TIMEOUT_S", connect_s)
    with dropping_port() as port:
        slow = fetcher(ports=[port], timeout_s=whole_s)
        lasted_s = took_s(lambda: refusal(lambda: slow.fetch(f"https://images.test:{port}/", 9)))
    assert 0.4 < lasted_s < 3


def test_name_resolution_that_hangs_times_out(fetcher: Open) -> None:
    hanging = threading.Event()

    def never(name: str) -> Sequence[str]:
        hanging.wait(30)
        return ["127.0.0.1"]

    slow = fetcher(resolve=never, timeout_s=0.5)
    lasted_s = took_s(lambda: refusal(lambda: slow.fetch("https://images.test/", MAX_BYTES)))
    hanging.set()
    assert 0.4 < lasted_s < 3
