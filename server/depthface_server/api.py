"""The few calls of Triton's HTTP API by which a server is operated, sent to its own address and to no proxy."""

from __future__ import annotations

import http.client
import json
from collections import Counter
from typing import Any
from urllib.parse import quote

from depthface.contract import ADMIN_HEADER

__all__ = ["Api", "ApiError"]

_TIMEOUT_S = 10.0
_LOAD_TIMEOUT_S = 300.0


class ApiError(OSError):
    """Triton did not do what it was asked; `status` is HTTP's, 0 where there was no answer of HTTP."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Api:
    """Triton at an address. Each call is a connection of its own, so that any thread may use it at any time.

    Args:
        host: a name, or an address without brackets.
        port: that of HTTP.
        key: the operator's.
    """

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host = host
        self._port = port
        self._key = key

    def is_live(self, server_id: str) -> bool:
        """Return whether the server that was started with this `--id` answers; another one may have taken its port."""
        try:
            found = self._ask("GET", "/v2", timeout_s=2.0)
        except ApiError:
            return False
        return isinstance(found, dict) and found.get("name") == server_id

    def index(self) -> list[dict[str, str]]:
        """Return every model of the repository: its name and, where it was ever loaded, its state and the reason."""
        found: list[dict[str, str]] = self._ask("POST", "/v2/repository/index", {})
        return found

    def ready(self) -> Counter[str]:
        """Return the models that are loaded, each with the number of its versions.

        Triton lists the folder of the repository for it.
        """
        found: list[dict[str, str]] = self._ask("POST", "/v2/repository/index", {"ready": True})
        return Counter(model["name"] for model in found if model.get("state") == "READY")

    def config(self, model: str) -> dict[str, Any]:
        """Return a loaded model's config."""
        found: dict[str, Any] = self._ask("GET", f"/v2/models/{quote(model, safe='')}/config")
        return found

    def load(self, model: str) -> None:
        """Load a model, or load it anew."""
        self._ask("POST", f"/v2/repository/models/{quote(model, safe='')}/load", {}, timeout_s=_LOAD_TIMEOUT_S)

    def unload(self, model: str) -> None:
        """Take a model out of the server."""
        self._ask("POST", f"/v2/repository/models/{quote(model, safe='')}/unload", {}, timeout_s=_LOAD_TIMEOUT_S)

    def _ask(self, method: str, path: str, body: object = None, timeout_s: float = _TIMEOUT_S) -> Any:
        """Return the answer's JSON, None for an empty one; raises `ApiError`."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout_s)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {ADMIN_HEADER: self._key})
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"no answer from {self._host}:{self._port} ({error})") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ApiError(response.status, _message(text) or f"{response.status} {response.reason}")
        try:
            return json.loads(text) if text else None
        except ValueError as error:
            raise ApiError(response.status, "what answers is no Triton") from error


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return ""
