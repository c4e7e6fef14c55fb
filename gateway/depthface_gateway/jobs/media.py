"""The media store: another service, which has the photos by id and takes the results."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from depthface.errors import ClientError, InvalidInput

__all__ = ["MediaMissing", "MediaStore", "MediaUnavailable", "is_media_id"]

_TIMEOUT_S = 30.0
_WORTH_ANOTHER_TRY = (408, 425, 429)
_PART_BYTES = 2**16
_LONGEST_ID = 255


class MediaMissing(InvalidInput):
    """The media store has no such photo, or will not give it."""


class MediaUnavailable(ClientError):
    """The media store does not answer, or failed; it may be asked again."""

    status: ClassVar[int] = 502


def is_media_id(text: str) -> bool:
    """Whether this can be a photo's id: printable, and no step in a path."""
    return 0 < len(text) <= _LONGEST_ID and text.isprintable() and text.strip(". ") != ""


class MediaStore:
    """Asks the media store; use it with `async with`.

    Args:
        url: of the store, such as `http://localhost:8000`.
        max_bytes: the largest photo.
    """

    def __init__(self, url: str, max_bytes: int) -> None:
        self._url = url.rstrip("/")
        self._max_bytes = max_bytes

    async def __aenter__(self) -> MediaStore:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def photo(self, media_store_id: str) -> bytes:
        """Return a photo's bytes.

        Raises:
            MediaMissing: the store does not have it, or it is too large.
            MediaUnavailable: the store failed; another try may succeed.
        """
        url = f"{self._url}/entity/{quote(media_store_id, safe='')}/file"
        data = bytearray()
        async with _translated(self._url), self._session.get(_as_it_is(url), allow_redirects=False) as response:
            _check(response.status, self._url, f"photo {media_store_id}")
            async for part in response.content.iter_chunked(_PART_BYTES):
                data += part
                if len(data) > self._max_bytes:
                    raise MediaMissing(
                        f"The photo {media_store_id} is larger than {self._max_bytes / 2**20:g} MiB.",
                        "Store a smaller copy of it.",
                    )
        return bytes(data)

    async def give(self, media_store_id: str, result: Mapping[str, Any]) -> None:
        """Hand over a photo's result.

        Raises:
            MediaMissing: the store refuses it.
            MediaUnavailable: the store failed; another try may succeed.
        """
        url = f"{self._url}/inference/results/{quote(media_store_id, safe='')}"
        request = self._session.post(_as_it_is(url), json=dict(result), allow_redirects=False)
        async with _translated(self._url), request as response:
            _check(response.status, self._url, f"result of {media_store_id}")


@asynccontextmanager
async def _translated(url: str) -> AsyncIterator[None]:
    """Turn what breaks on the way into `MediaUnavailable`."""
    try:
        yield
    except TimeoutError as error:
        late = f"The media store {url} did not answer within {_TIMEOUT_S:g} s."
        raise MediaUnavailable(late, "See MEDIA_STORE_URL.") from error
    except (aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise MediaUnavailable(f"The media store {url} cannot be asked ({reason}).", "See MEDIA_STORE_URL.") from error


def _check(status: int, url: str, what: str) -> None:
    if 200 <= status < 300:
        return
    if status >= 500 or status in _WORTH_ANOTHER_TRY:
        raise MediaUnavailable(f"The media store {url} answered {status} for the {what}.")
    raise MediaMissing(f"The media store {url} answered {status} for the {what}.", "See that it is there and open.")


def _as_it_is(url: str) -> URL:
    """Return a URL whose escapes are kept: an id with a slash stays one part of the path."""
    return URL(url, encoded=True)
