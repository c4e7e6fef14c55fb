"""What is not served here goes to another immich machine learning service, as it came."""

from __future__ import annotations

from io import BytesIO

import aiohttp
from starlette.datastructures import FormData, UploadFile
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

    async def predict(self, form: FormData, id: str) -> Response:
        """Send it all parts of a form, and return its answer.

        Raises:
            InvalidInput: a part has a name that cannot be sent.
            ServerUnavailable: it does not answer.
        """
        assert self._session is not None
        data = await _again(form)
        try:
            async with self._session.post(self._url / "predict", data=data, headers={"x-request-id": id}) as response:
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


async def _again(form: FormData) -> aiohttp.FormData:
    """Return a form to send from one that came; a file may have been read already."""
    again = aiohttp.FormData(default_to_multipart=True)
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                await value.seek(0)
                kind = value.content_type or "application/octet-stream"
                again.add_field(name, BytesIO(await value.read()), filename=value.filename or "blob", content_type=kind)
            else:
                again.add_field(name, value)
    except ValueError as error:
        raise InvalidInput(f"A part of the form cannot be sent on ({error}).", "Give it a plain name.") from error
    return again
