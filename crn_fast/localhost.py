"""Who may ask a server on this machine, and the headers that keep its answers to itself.

A page of any site can send requests to localhost, and by DNS rebinding (a name that turns into
127.0.0.1 after the page has loaded) even read the answers. So a Host that is no name of the server
is refused, and so is the Origin of any page that is not its own. No server is here, and no token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

NAMES = ("localhost", "127.0.0.1", "::1")
"""What this machine is called on this machine."""
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
"""Of every answer, together with a Content-Security-Policy."""


class Foreign(NamedTuple):
    """Why a request is refused."""

    status: int
    code: str
    message: str


def foreign(
    hosts: Sequence[str],
    origins: Sequence[str],
    sites: Sequence[str],
    knows: Callable[[str], bool],
    *,
    page: bool,
) -> Foreign | None:
    """Why a request is not from a page of this server, nor from a program; None if it may be.

    Args:
        hosts: its headers Host, of which there must be one.
        origins: its headers Origin.
        sites: its headers Sec-Fetch-Site, which browsers send.
        knows: whether a name, in small letters and without its port, is the server's.
        page: whether it asks for a page or its parts, to which another site may link.
    """
    host = hosts[0].lower() if len(hosts) == 1 else ""
    if not (name := _name(host)) or not knows(name):
        return Foreign(
            421,
            "unknown_host",
            f"Host {', '.join(hosts)[:100]!r} is no name of this server; use its address, or "
            "start it with --allow-host NAME",
        )
    for origin in origins:
        if origin.lower() not in (f"http://{host}", f"https://{host}"):
            return Foreign(
                403, "foreign_origin", f"pages of {origin[:100]!r} may not use this server"
            )
    if not page and not all(site in ("same-origin", "none") for site in sites):
        return Foreign(403, "foreign_origin", "pages of other sites may not use this server")
    return None


def _name(host: str) -> str:
    """Of a Host header, without its port; empty if it is none."""
    found = re.fullmatch(r"\[([0-9a-f:.]+)\](:\d{1,5})?|([^:\[\]]+)(:\d{1,5})?", host, re.ASCII)
    return (found[1] or found[3]) if found else ""
