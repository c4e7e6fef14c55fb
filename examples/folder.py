"""Depth maps of a whole folder, several photos at once, with asyncio. A photo that fails stops no other.

python examples/folder.py photos/ maps/
"""

import asyncio
import os
import sys
from pathlib import Path

from depthface_client import AsyncClient, DepthfaceError, ServerUnavailable

AT_ONCE = 8  # more than the server has processes, so that it never waits for us
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


async def main(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    photos = sorted(path for path in source.iterdir() if path.suffix.lower() in SUFFIXES)
    slots = asyncio.Semaphore(AT_ONCE)

    async with AsyncClient(os.environ.get("DEPTHFACE_URL", "127.0.0.1:8000"), retries=3) as client:

        async def one(photo: Path) -> str:
            async with slots:
                try:
                    png = await client.depth_png(photo, bits=16)
                except ServerUnavailable:  # nor would it answer for the others
                    raise
                except DepthfaceError as error:
                    return f"{photo.name}: {error}"
            out = target / f"{photo.name}.png"  # with the suffix, so that a.jpg and a.png do not meet
            out.write_bytes(png)
            return f"{photo.name} → {out}"

        for line in asyncio.as_completed([one(photo) for photo in photos]):
            print(await line)


asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
