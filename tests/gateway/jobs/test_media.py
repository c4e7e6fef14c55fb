"""The media store, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest
from fixtures.media_store import Store

from depthface_gateway.jobs.media import MediaMissing, MediaStore, MediaUnavailable, is_media_id

T = TypeVar("T")


def asked(url: str, call: Callable[[MediaStore], Awaitable[T]], max_bytes: int = 1000) -> T:
    async def main() -> T:
        async with MediaStore(url, max_bytes) as media:
            return await call(media)

    return asyncio.run(main())


IDS = ["7", "anna's photo", "a/b", "../secret", "%2e%2e", "ä?x=1#y", "a\\b", "a&b=c", "…", "https://evil.example/"]


@pytest.mark.parametrize("media_id", IDS)
def test_an_id_stays_one_part_of_the_path(store: Store, media_id: str) -> None:
    store.photos[media_id] = b"photo"
    assert asked(store.url, lambda media: media.photo(media_id)) == b"photo"
    asked(store.url, lambda media: media.give(media_id, {"faces": []}))
    assert store.results == {media_id: {"faces": []}}
    assert all(path.count("/") == 3 for path in store.paths)


@pytest.mark.parametrize("media_id", ["", ".", "..", "...", " ", ". .", "a\nb", "a\0", "\ud800", "x" * 256])
def test_what_is_no_id(media_id: str) -> None:
    assert not is_media_id(media_id)


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, MediaMissing), (401, MediaMissing), (410, MediaMissing), (302, MediaMissing), (304, MediaMissing),
     (429, MediaUnavailable), (408, MediaUnavailable), (500, MediaUnavailable), (503, MediaUnavailable)],
)  # fmt: skip
def test_what_ends_a_job_and_what_may_pass(store: Store, status: int, error: type[Exception]) -> None:
    for call in (lambda media: media.photo("7"), lambda media: media.give("7", {})):
        store.failures = [status]
        with pytest.raises(error, match=str(status)):
            asked(store.url, call)


def test_a_photo_that_is_too_large_is_not_read_to_its_end(store: Store) -> None:
    store.photos = {"fits": bytes(1000), "large": bytes(1001)}
    assert len(asked(store.url, lambda media: media.photo("fits"))) == 1000
    with pytest.raises(MediaMissing, match="larger than"):
        asked(store.url, lambda media: media.photo("large"))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_a_store_that_is_not_there(url: str) -> None:
    with pytest.raises(MediaUnavailable, match="MEDIA_STORE_URL"):
        asked(url, lambda media: media.photo("7"))
