"""What is not served here goes to another immich machine learning service, as it came."""

from __future__ import annotations

from io import BytesIO

import aiohttp
from starlette.responses import Response
from yarl import URL

from depthface.errors import InvalidInput, ServerUnavailable

__all__ = ["Upstream"]


class Upstream:
    """Another service of the same contract, used with `async with`.

    Args:
        url: `http://host:port`.
        timeout_s: the longest wait for an answer.

    Raises:
        InvalidInput: the address is none of HTTP.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        try:
            self._url = URL(url)
            is_whole = self._url.scheme in ("http", "https") and bool(self._url.host)
        except ValueError:
            is_whole = False
        if not is_whole:
            raise InvalidInput(f"--upstream {url} is not an HTTP address.", "Give one such as http://immich-ml:3003.")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, connect=10)
        self._session: aiohttp.ClientSession | None = None

    async def predict(self, entries: str, image: bytes | None, text: str | None, id: str) -> Response:
        """Ask it the same, and return its answer.

        Raises:
            ServerUnavailable: it does not answer.
        """
        assert self._session is not None
        form = aiohttp.FormData(default_to_multipart=True)
        form.add_field("entries", entries)
        if image is not None:
            form.add_field("image", BytesIO(image), filename="blob", content_type="application/octet-stream")
        elif text is not None:
            form.add_field("text", text)
        try:
            async with self._session.post(self._url / "predict", data=form, headers={"x-request-id": id}) as response:
                kind = response.headers.get("Content-Type")
                return Response(await response.read(), response.status, media_type=kind)
        except (aiohttp.ClientError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise ServerUnavailable(f"The upstream {self._url} does not answer ({reason}).") from error

    async def __aenter__(self) -> Upstream:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),  # a kept one may be closed there as a photo is sent
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()
