"""Who may call."""

from __future__ import annotations

import hmac
from collections.abc import Callable

from fastapi import HTTPException, Request


def bearer_check(token: str) -> Callable[[Request], None]:
    """Return a dependency that refuses calls without the bearer token; none configured lets everyone in (loopback only)."""

    def check(request: Request) -> None:
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "a bearer token is needed", {"WWW-Authenticate": 'Bearer realm="veraicon"'})

    return check
