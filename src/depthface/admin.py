"""The key to what only a server's operator may do: load and unload, shared memory, tracing, logging.

A server takes it from `DEPTHFACE_ADMIN_KEY` or makes one up. It keeps the key in files that its user alone may read,
by its address with its HTTP port and with its gRPC port, so that the same user's command line and SDK on the same
machine find it.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

from depthface import cache
from depthface.contract import ADMIN_HEADER
from depthface.errors import InvalidInput, ServeError

__all__ = ["VARIABLE", "check", "chosen_key", "headers", "hide", "publish"]

VARIABLE = "DEPTHFACE_ADMIN_KEY"

_FORM = re.compile(r"[A-Za-z0-9_-]{16,}")  # Triton's own option knows no quotes

_FOLDER = "keys"

_LISTENING = {
    "127.0.0.1": ("127.0.0.1", "0.0.0.0", "::"),
    "localhost": ("127.0.0.1", "0.0.0.0", "::", "::1"),
    "[::1]": ("::1", "::"),
}
"""By the name of this machine that is asked: where a server of this machine may listen that answers."""


def chosen_key() -> str:
    """Return the key that the environment gives, or a new random one.

    Raises:
        InvalidInput: the environment's is too short, or has characters that Triton's options cannot hold.
    """
    key = os.environ.get(VARIABLE)
    if not key:
        return secrets.token_urlsafe(24)
    if not _FORM.fullmatch(key):
        raise InvalidInput(f"{VARIABLE} is no key.", "Give at least 16 letters, digits, `-` or `_`.")
    return key


def publish(ip: str, port: int, key: str) -> None:
    """Keep the key of the server at this address where its own user finds it; raises `ServeError` if it cannot be."""
    cache.make_folder(_FOLDER, mode=0o700)
    path = _path(ip, port)
    with cache.writing(path):
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(key)


def hide(ip: str, port: int, key: str) -> None:
    """Take the file away again, if it still has this key: another server may have put its own there."""
    with suppress(OSError):
        if (path := _path(ip, port)).read_text("utf-8", "replace") == key:
            path.unlink(missing_ok=True)


def headers(host: str, key: str | None = None) -> dict[str, str]:
    """Return what a request to an operator's API carries.

    Args:
        host: `host:port`.
        key: None for the environment's or, of a server on this machine, the one in its file; empty without any.

    Raises:
        InvalidInput: no header can hold the one that is chosen.
    """
    for name, found in (("admin_key", key), (VARIABLE, os.environ.get(VARIABLE))):
        if found:
            check(found, name)
            return {ADMIN_HEADER: found}
    found = _kept(host)
    if found:
        check(found, f"What is kept on this machine for {host}")
    return {ADMIN_HEADER: found} if found else {}


def check(key: str, name: str) -> None:
    """Raise `InvalidInput`, in which the key itself is not shown, if no header can hold it: a line's end may be in it.

    Args:
        name: what messages call it.
    """
    if not (isinstance(key, str) and key.isascii() and key.isprintable()):
        raise InvalidInput(f"{name} is no key.", "Give the server's, of letters, digits, `-` and `_`.")


def _kept(host: str) -> str | None:
    name, _, port = host.rpartition(":")
    addresses = _LISTENING.get(name, ())  # a key goes to its own server alone
    if not addresses or not port.isdecimal():
        return None
    try:
        files = [path for ip in addresses if (path := _path(ip, int(port))).is_file()]
        # A server that was killed leaves its file: the latest is of the one that answers.
        return max(files, key=lambda path: path.stat().st_mtime_ns).read_text("utf-8", "replace") if files else None
    except (OSError, ServeError):
        return None


def _path(ip: str, port: int) -> Path:
    return cache.folder() / _FOLDER / f"{ip}-{port}"
