"""Downloads the image of an `image_url`, guarded against server-side request forgery (SSRF).

The host must be on an allow-list. Its name is resolved once, all its addresses must be public, and
the connection goes to the address that was checked: a second resolution could return another one
(DNS rebinding). Only https, only status 200; no redirects, no proxies, no retries.
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

from likeness.adapters.connections import connect, iter_body, remaining_s, set_deadline
from likeness.errors import ConfigurationError, FetchRefused, ImageTooLarge
from likeness.settings import MIB

_TIMEOUT_S = 5.0
_CONNECT_TIMEOUT_S = 3.0
_OK = 200
_HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "likeness"}
# A request of this length is sent at once: a peer that reads slowly cannot delay us.
_MAX_URL_CHARACTERS = 8192
_TOO_LONG = f"the URL is too long: maximum is {_MAX_URL_CHARACTERS} characters, percent-encoded"
_MAX_NAME_CHARACTERS = 253  # RFC 1035; the standard library's IDNA is slow on longer ones
# The last label must not be a number: resolvers read 127.1 and 0x7f.1 as addresses.
_NAME = re.compile(r"([a-z0-9_-]{1,63}\.)*[a-z][a-z0-9-]{0,62}")
# Not in a valid URL; parsers disagree about them, or drop them silently as urlsplit does.
_AMBIGUOUS = re.compile(r"[\x00-\x20\x7f\\]")
_URL_CHARACTERS = "%/:?#[]@!$&'()*+,;=~"  # RFC 3986, besides letters, digits and "-._"
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA has allocated for the internet
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
# Global according to ipaddress of some Python versions, but not reachable on the internet:
# documentation (RFC 9637), ORCHIDv2 hashes (RFC 7343), deprecated 6to4 relays (RFC 7526).
_NOT_ROUTED = (
    IPv6Network("3fff::/20"),
    IPv6Network("2001:20::/28"),
    IPv4Network("192.88.99.0/24"),
)

Address = IPv4Address | IPv6Address


def is_public(address: Address) -> bool:
    """Whether a packet to this address would go to the public internet.

    ipaddress alone is not enough: it calls site-local IPv6 addresses global, and private IPv4
    addresses embedded in IPv6 too. A NAT64 address counts as the IPv4 address inside it, because
    NAT64 is the only way from an IPv6 subnet to an IPv4 host; tunnels (6to4, Teredo) are never
    public.
    """
    if isinstance(address, IPv6Address):
        embedded = address.ipv4_mapped
        if address in _NAT64:
            embedded = IPv4Address(int(address) & 0xFFFF_FFFF)
        if embedded:
            return is_public(embedded)
        if address not in _GLOBAL_UNICAST or address.sixtofour:
            return False
    if any(address in network for network in _NOT_ROUTED):
        return False
    return address.is_global and not address.is_multicast


def resolve(name: str) -> list[str]:
    """The host's addresses by the system's resolver. Raises OSError where it has none."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]


class _Target(NamedTuple):
    """The parts of an allowed URL: host, port, and path with query."""

    host: str
    port: int
    path: str


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
        """`hosts` are exact names, or `*.example.com` for all subdomains of example.com but not
        itself; an empty list switches fetching off.

        `ssl_context` must verify certificates and names, as the default context does; its socket
        class is replaced. `timeout_s` limits a whole fetch, from name resolution to the last byte.
        Raises ConfigurationError for an invalid host.
        """
        wildcards = [entry for entry in hosts if entry.startswith("*.")]
        self._names = {_parse_allowed_host(entry) for entry in hosts if entry not in wildcards}
        self._suffixes = tuple("." + _parse_allowed_host(entry[2:]) for entry in wildcards)
        self._resolve = resolve
        self._is_public = is_public
        self._ssl_context = ssl_context
        self._ports = ports
        self._timeout_s = timeout_s

    def fetch(self, url: str, max_bytes: int) -> bytes:
        """The content of `url`, at most `max_bytes` long.

        Raises ImageTooLarge for more, and FetchRefused for a URL that is not allowed, a host that
        cannot be reached in time, and a response other than a complete, uncompressed 200.
        """
        deadline_s = time.monotonic() + self._timeout_s
        target = self._parse_allowed_url(url)
        address = self._resolve_public_address(target.host, deadline_s)
        try:
            return self._download(target, address, max_bytes, deadline_s)
        except ssl.SSLCertVerificationError:
            reason = "has no valid certificate for that name"
        except TimeoutError:
            reason = "did not send the image in time"
        except (OSError, http.client.HTTPException, ValueError):
            reason = "did not send a complete response"
        # raised outside of `except`, so that no details about the peer become its context
        raise FetchRefused(f"{target.host} {reason}")

    def _parse_allowed_url(self, url: str) -> _Target:
        if not self._names and not self._suffixes:
            raise FetchRefused("fetching by URL is switched off: send the image itself")
        if len(url) > _MAX_URL_CHARACTERS:
            raise FetchRefused(_TOO_LONG)
        try:
            if _AMBIGUOUS.search(url):
                raise ValueError("spaces, control characters or backslashes")
            parts = urlsplit(url)
            if parts.scheme != "https":
                raise FetchRefused("only https:// URLs are fetched")
            if "@" in parts.netloc:
                raise FetchRefused("a URL must not contain a user name or a password")
            host = _normalise_host(parts.hostname or "")
            port = 443 if parts.port is None else parts.port
            path = quote(parts.path or "/", safe=_URL_CHARACTERS)
            if parts.query:
                path += "?" + quote(parts.query, safe=_URL_CHARACTERS)
        except ValueError:
            raise FetchRefused("this is not a valid URL") from None
        if len(path) > _MAX_URL_CHARACTERS:  # a non-ASCII character becomes up to twelve
            raise FetchRefused(_TOO_LONG)
        if host not in self._names and not host.endswith(self._suffixes):
            raise FetchRefused(f"{host} is not an allowed host")
        if port not in self._ports:
            raise FetchRefused(f"port {port} is not allowed")
        return _Target(host, port, path)

    def _resolve_public_address(self, host: str, deadline_s: float) -> str:
        """The host's first address. Raises FetchRefused unless all its addresses are public.

        The message is the same for an unknown name, so that it does not reveal which internal
        names exist.
        """
        found: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

        def run() -> None:
            try:
                found.put(self._resolve(host))
            except (OSError, ValueError):
                found.put([])

        # getaddrinfo has no timeout; a daemon thread that hangs does not keep the process alive
        threading.Thread(target=run, daemon=True).start()
        try:
            texts = found.get(timeout=remaining_s(deadline_s))
            addresses = [ip_address(text) for text in texts]
        except (TimeoutError, queue.Empty, ValueError):
            addresses = []
        if not addresses or not all(self._is_public(address) for address in addresses):
            raise FetchRefused(f"{host} does not resolve to public addresses only")
        return str(addresses[0])

    def _download(self, target: _Target, address: str, max_bytes: int, deadline_s: float) -> bytes:
        connection = connect(
            target.host, target.port, deadline_s, _CONNECT_TIMEOUT_S, self._context, address
        )
        with closing(connection):
            set_deadline(connection, deadline_s)
            connection.request("GET", target.path, headers=_HEADERS)
            with connection.getresponse() as response:
                _check_response(response, target.host)
                return _read_body(response, max_bytes)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        """Created on first use: loading the system's certificate authorities is slow."""
        return self._ssl_context or ssl.create_default_context()


def _check_response(response: http.client.HTTPResponse, host: str) -> None:
    if response.status != _OK:
        redirect = ": redirects are not followed" if 300 <= response.status < 400 else ""
        raise FetchRefused(f"{host} answered with HTTP {response.status}{redirect}")
    # we requested none, and decompressing would need a guard against decompression bombs
    if response.getheader("content-encoding", "identity").lower() != "identity":
        raise FetchRefused(f"{host} sent a compressed response")


def _read_body(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    too_large = ImageTooLarge(f"the image is too large: maximum is {max_bytes / MIB:.1f} MiB")
    if response.length is not None and response.length > max_bytes:
        raise too_large
    data = bytearray()
    for chunk in iter_body(response):
        data += chunk
        if len(data) > max_bytes:
            raise too_large
    return bytes(data)


def _normalise_host(host: str) -> str:
    """A host as it is compared, resolved and verified: ASCII, lower case, no trailing dot.

    Raises ValueError for an invalid host, and for a name that IDNA maps to a different one.
    """
    name = host.lower().removesuffix(".")
    if len(name) > _MAX_NAME_CHARACTERS:
        raise ValueError("the name is too long")
    if not name.isascii():
        encoded = name.encode("idna")
        if encoded.decode("idna") != name:
            raise ValueError("look-alike characters")
        name = encoded.decode()
    return name if _NAME.fullmatch(name) else str(ip_address(name))


def _parse_allowed_host(entry: str) -> str:
    try:
        return _normalise_host(entry)
    except ValueError:
        raise ConfigurationError(
            f"{entry!r} is not a valid host to fetch images from: use a name, or *. and a name"
        ) from None
