"""Addresses and the token of a FHIR server: what can be used, before anything is sent. Pure."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import httpx

from domain.errors import ConfigurationError, PeerAnswerInvalid
from fhir_adapter.server.answers import invalid


def require_base_url(url: str) -> str:
    """Return a service base URL without its last slash.

    Raises
    ------
    ConfigurationError
        If it is no HTTP URL, or has user information, a query or a fragment.
    """
    parts = urlsplit(url if _is_url(url) else "")
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            found="a FHIR base URL that is no plain HTTP address",
            allowed="http(s)://host[:port]/path, without user, query and fragment",
            action="correct the base URL of the FHIR server",
        )
    return url.rstrip("/")


def require_token(token: str) -> str:
    """Return a bearer token that a header can carry.

    Raises
    ------
    ConfigurationError
        If it holds anything but visible ASCII; the token is not repeated.
    """
    # RFC 6750 section 2.1 allows fewer characters still; a line break from a file is the usual mistake.
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigurationError(
            found="a bearer token with white space, a line break or a character outside ASCII",
            allowed="visible ASCII characters (RFC 6750 section 2.1)",
            action="set the token without anything around it",
        )
    return token


def _is_url(url: str) -> bool:
    """Tell whether both parsers can read the URL: white space, a port out of range or a broken host stops one of them."""
    try:
        httpx.URL(url)
        return urlsplit(url).port != 0 and not re.search(r"\s", url)
    except (ValueError, httpx.InvalidURL):
        return False


def require_origin(url: str, base_url: str) -> str:
    """Return the link that a server gave, as it stands; another origin would get our token and choose what we read.

    Raises
    ------
    PeerAnswerInvalid
        If it is no URL, or leads to another scheme, host or port than `base_url`.
    """
    absolute = urljoin(f"{base_url}/", url) if _is_url(url) else ""
    if not absolute or not _is_url(absolute):
        raise invalid("a next link that is no URL", "an absolute URL below the base URL")
    if _origin(absolute) != _origin(base_url):
        raise PeerAnswerInvalid(
            found="a next link to another origin than the base URL's",
            allowed=f"pages below {origin_text(base_url)}",
            action="set the FHIR server's public base address, or configure the base URL that it uses in its links",
        )
    return absolute


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or (443 if parts.scheme == "https" else 80)


def origin_text(url: str) -> str:
    """Return scheme, host and port of a URL, which is all of it that errors and logs say.

    Examples
    --------
    >>> origin_text("https://ehr.example/fhir/Patient/a")
    'https://ehr.example:443'
    """
    scheme, host, port = _origin(url)
    return f"{scheme}://{host}:{port}"
