"""Fetching the image that an `image_url` names, without lending a caller our place in the network.

The host must be on a list. Its name is resolved once, every address it has must be public, and the
connection goes to the address that was checked: a second look-up could answer another one (DNS
rebinding). Only https, only status 200; no redirects, no proxies, no second try.
"""

from __future__ import annotations

import http.client
import queue
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from likeness.adapters.connections import allow_until, connect, left_s, pieces
from likeness.errors import ConfigurationError, FetchRefused, ImageTooLarge
from likeness.settings import MIB

_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 3.0
_OK = 200
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "likeness"}
# A request this short goes out in one piece: a peer that is slow to read cannot hold us up.
_MAX_URL_CHARACTERS = 8192
_TOO_LONG = f"a URL has at most {_MAX_URL_CHARACTERS} characters, percent-encoded"
_MAX_NAME_CHARACTERS = 253  # RFC 1035; IDNA in the standard library is slow on longer ones
# A last label that is no number: resolvers read 127.1 and 0x7f.1 as addresses.
_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z][a-z0-9-]{0,62}")
# Parsers disagree about these, or drop them in silence (urlsplit does); no valid URL has them.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"  # RFC 3986, beside letters, digits and "-._"
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has given out for the internet
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# Not for the internet, though ipaddress of one Python or another says so: documentation (RFC 9637),
# hashes that are no place (RFC 7343), and what were relays into 6to4 (RFC 7526).
_RETIRED = (
    IPv6Network("3fff::/20"),
    IPv6Network("2001:20::/28"),
    IPv4Network("192.88.99.0/24"),
)

Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether a packet to this address would leave for the open internet.

    ipaddress alone is not enough: it calls site-local IPv6 addresses global, and private IPv4
    ones inside IPv6 too. NAT64 is judged by what it leads to, because it is the only way from an
    IPv6 subnet to an IPv4 host; tunnels (6to4, Teredo) are never public.
    """
    if isinstance(address, IPv6Address):
        inside = address.ipv4_mapped
        if address in _NAT64:
            inside = IPv4Address(int(address) & 0xFFFF_FFFF)
        if inside:
            return is_public(inside)
        if address not in _GLOBAL_UNICAST or address.sixtofour:
            return False
    if any(address in network for network in _RETIRED):
        return False
    return address.is_global and not address.is_multicast


def resolve(name: str) -> list[str]:
    """The addresses of a host, as the system resolves it. Raises OSError where it has none."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class _Place(NamedTuple):
    """Where a URL leads: an allowed host, its port, and the path and query to ask it for."""

    name: str
    port: int
    target: str


class Fetcher:
    """Safe to share between threads."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        resolve: Callable[[str], Sequence[str]] = resolve,
        is_public: Callable[[Address], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
        ports: Sequence[int] = (443,),
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        """`hosts` are exact names, or `*.example.com` for all below example.com, without itself;
        an empty list switches fetching off.

        `ssl_context` must verify certificates and names, as the default does with the system's
        authorities; it is made to open sockets of ours. `timeout_s` is for a whole fetch, from the
        look-up of the name to the last byte. Raises ConfigurationError for a host that is no name.
        """
        wild = [entry for entry in hosts if entry.startswith("*.")]
        self._exact = {_host(entry) for entry in hosts if entry not in wild}
        self._endings = tuple("." + _host(entry[2:]) for entry in wild)
        self._resolve = resolve
        self._is_public = is_public
        self._given_context = ssl_context
        self._ports = ports
        self._timeout_s = timeout_s

    def fetch(self, url: str, max_bytes: int) -> bytes:
        """The bytes at `url`, at most `max_bytes` of them.

        Raises ImageTooLarge for more, FetchRefused for all else: a URL that is not allowed, a host
        that cannot be reached in time, an answer that is not a whole, plain 200.
        """
        deadline_s = time.monotonic() + self._timeout_s
        place = self._allowed(url)
        address = self._checked_address(place.name, deadline_s)
        try:
            return self._get(place, address, max_bytes, deadline_s)
        except ssl.SSLCertVerificationError:
            why = "has no valid certificate for that name"
        except TimeoutError:
            why = "did not send the image in time"
        except (OSError, http.client.HTTPException, ValueError):
            why = "did not send a whole answer"
        # said out here, so that the library's words about the peer hang on no error of ours
        raise FetchRefused(f"{place.name} {why}")

    def _allowed(self, url: str) -> _Place:
        if not self._exact and not self._endings:
            raise FetchRefused("fetching by URL is switched off here: send the image itself")
        if len(url) > _MAX_URL_CHARACTERS:
            raise FetchRefused(_TOO_LONG)
        try:
            if _AMBIGUOUS.search(url):
                raise ValueError("spaces, control characters or backslashes")
            parts = urlsplit(url)
            if parts.scheme != "https":
                raise FetchRefused("only https:// URLs are fetched")
            if "@" in parts.netloc:
                raise FetchRefused("a URL with a user name or a password is not fetched")
            name = _normal(parts.hostname or "")
            port = 443 if parts.port is None else parts.port
            target = quote(parts.path or "/", safe=_URL_CHARACTERS)
            if parts.query:
                target += "?" + quote(parts.query, safe=_URL_CHARACTERS)
        except ValueError:
            raise FetchRefused("this is not a URL that can be fetched") from None
        if len(target) > _MAX_URL_CHARACTERS:  # up to twelve for each that is not ASCII
            raise FetchRefused(_TOO_LONG)
        if name not in self._exact and not name.endswith(self._endings):
            raise FetchRefused(f"{name} is not one of the hosts that images are fetched from")
        if port not in self._ports:
            raise FetchRefused(f"images are not fetched from port {port}")
        return _Place(name, port, target)

    def _checked_address(self, name: str, deadline_s: float) -> str:
        """The first address of the name, where all of them are public.

        A name that is unknown is refused in the same words as one that leads inside: what names
        there are inside is nobody's business.
        """
        found: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                found.put(self._resolve(name))
            except (OSError, ValueError):
                found.put([])

        # getaddrinfo takes no timeout; a daemon that it holds up outlives the call, not the process
        threading.Thread(target=look_up, daemon=True).start()
        try:
            texts = found.get(timeout=left_s(deadline_s))
            addresses = [ip_address(text) for text in texts]
        except (TimeoutError, queue.Empty, ValueError):
            addresses = []
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise FetchRefused(f"{name} does not lead to public addresses only")
        return str(addresses[0])

    def _get(self, place: _Place, address: str, max_bytes: int, deadline_s: float) -> bytes:
        connection = connect(
            place.name, place.port, deadline_s, _CONNECT_TIMEOUT_S, self._context, address
        )
        with closing(connection):
            allow_until(connection, deadline_s)
            connection.request("GET", place.target, headers=_HEADERS)
            with connection.getresponse() as response:
                _check(response, place.name)
                return _body(response, max_bytes)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """Made when it is first needed: the system's authorities take a while to load."""
        return self._given_context or ssl.create_default_context()


def _check(response: http.client.HTTPResponse, name: str) -> None:
    if response.status != _OK:
        redirect = ": redirects are not followed" if 300 <= response.status < 400 else ""
        raise FetchRefused(f"{name} answered with HTTP {response.status}{redirect}")
    # we asked for none, and a decoder would have to guard against bombs
    if response.getheader("content-encoding", "identity").lower() != "identity":
        raise FetchRefused(f"{name} sent the image compressed")


def _body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    too_large = ImageTooLarge(f"more than the {max_bytes / MIB:.1f} MiB that are fetched")
    if response.length is not None and response.length > max_bytes:
        raise too_large
    data = bytearray()
    for part in pieces(response):
        data += part
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)


def _normal(host: str) -> str:
    """A host in the one form that is compared, looked up and verified: ASCII, lower case, no dot
    at its end.

    Raises ValueError for what is no host, and for a name that IDNA would make another one of.
    """
    name = host.lower().removesuffix(".")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError("too long for a name")
    if not name.isascii():
        encoded = name.encode("idna")
        if encoded.decode("idna") != name:
            raise ValueError("look-alike characters")
        name = encoded.decode()
    return name if _NAME.fullmatch(name) else str(ip_address(name))


def _host(entry: str) -> str:
    try:
        return _normal(entry)
    except ValueError:
        raise ConfigurationError(
            f"{entry!r} is no host to fetch images from: give a name, or *. and a name"
        ) from None
