"""Pictures for people to look at."""

from __future__ import annotations

import struct
import zlib

from PIL import Image, ImageDraw, ImageFont

__all__ = ["banner", "beside", "labelled"]

_GAP_PX = 8


def beside(left: Image.Image, right: Image.Image, height_px: int = 518) -> Image.Image:
    """Two pictures side by side, `height_px` high, on white."""
    scaled = [
        picture.resize((round(picture.width * height_px / picture.height), height_px)) for picture in (left, right)
    ]
    canvas = Image.new("RGB", (scaled[0].width + _GAP_PX + scaled[1].width, height_px), "white")
    canvas.paste(scaled[0], (0, 0))
    canvas.paste(scaled[1], (scaled[0].width + _GAP_PX, 0))
    return canvas


def banner(picture: Image.Image, text: str) -> Image.Image:
    """A copy with `text` in white on a red bar along its foot."""
    picture = picture.convert("RGB")
    size_px = max(picture.width // 24, 10)
    draw = ImageDraw.Draw(picture)
    bar = (0, picture.height - 2 * size_px, picture.width, picture.height)
    draw.rectangle(bar, fill=(176, 0, 32))
    centre = (picture.width / 2, picture.height - size_px)
    draw.text(centre, text, fill="white", anchor="mm", font=ImageFont.load_default(size_px))
    return picture


def labelled(png: bytes, weights: str) -> bytes:
    """The PNG with a text chunk `Source` that says which weights made it (PNG specification, 11.3.4.3 tEXt)."""
    end_of_header = 8 + 25  # signature, IHDR
    chunk = b"tEXt" + f"Source\0depthface: {weights}".encode("latin-1", "replace")
    framed = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return png[:end_of_header] + framed + png[end_of_header:]
