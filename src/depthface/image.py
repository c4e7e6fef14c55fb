"""Photos between bytes and arrays: decode, resize, encode. Arrays are `(H, W, 3) uint8 RGB`, upright.

What comes out of `decode` is what `depthface.picture` says a photo is, to the bit; here it comes out faster. For the
faster resize it may be `(H, W, 4)`, whose fourth byte means nothing: both work on pixels of four bytes.
"""

from __future__ import annotations

import struct

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from isal import isal_zlib
from PIL import Image

try:
    import cykooz_resizer
except ModuleNotFoundError:  # there is no wheel for Linux on ARM
    cykooz_resizer = None

from depthface import limits, picture
from depthface.errors import ImageTooLarge

__all__ = ["decode", "encode_png", "resize_bicubic", "resize_bilinear", "size_of", "use_one_thread"]

Pixels = npt.NDArray[np.uint8]

_MOST_EIGHTHS = 5
"""libjpeg-turbo has vector code for the whole size, a half and a quarter of it. Decoding to six or seven eighths takes
one and a half to two times as long as decoding the whole photo."""

# Orientation (EXIF 2.32, tag 0x0112) → the array operation that sets the photo upright.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def decode(data: bytes, *, at_least: tuple[int, int] | None = None, padded: bool = False) -> Pixels:
    """Decode an encoded photo, its orientation applied.

    Args:
        data: a file of one of `formats.FORMATS`, within `limits.current()`.
        at_least: height and width, upright, that are enough: a larger JPEG is decoded to the nearest eighth of its size
            that is no smaller, by leaving out high frequencies of its cosine transform. Where that would be six eighths
            or more, it is decoded whole, which is quicker.
        padded: a JPEG's pixels may have a fourth byte, which saves the faster resize a copy.

    Returns:
        `(H, W, 3) uint8 RGB`, or with `padded` perhaps `(H, W, 4)`; C-contiguous. Alpha is dropped; of several frames
        the first is taken.

    Raises:
        ImageTooLarge: over a limit; nothing has been decoded.
        InvalidImage: empty, not an image, of another format, or damaged.
    """
    with picture.opened(_of_bytes_allowed(data), max_pixels=limits.current().max_pixels) as photo:
        if photo.format == "JPEG" and photo.mode in ("RGB", "L"):
            pixels = _decode_jpeg(photo.data, "RGBX" if padded else "RGB", *_enough(photo, at_least))
            if pixels is not None:
                return _upright(pixels, photo.orientation)
        return np.array(photo.decoded())


def size_of(data: bytes) -> tuple[int, int]:
    """Return the height and width of an encoded photo, upright, without decoding it; raises as `decode` does."""
    with picture.opened(_of_bytes_allowed(data), max_pixels=limits.current().max_pixels) as photo:
        return photo.size


def resize_bicubic(pixels: Pixels, height: int, width: int, *, exact: bool = True) -> Pixels:
    """Resize as `PIL.Image.resize(…, BICUBIC)` does: antialiased, a = −0.5, on uint8.

    Args:
        pixels: `(H, W, 3) uint8`, or `(H, W, 4)` of `decode`.
        exact: by Pillow itself. Otherwise by fast_image_resize, where that is installed: of 12 megapixels in an eighth
            of the time. Its weights have 16 bits where Pillow's have 22, so one sample in 200 is off by a level, few by
            two. As Pillow it resizes the rows first; but Pillow 13 begins with the columns where the height shrinks
            much more than the width, and then differs from this, and from Pillow 12, by a level in one sample of ten.

    Returns:
        `(height, width, 3) uint8`.
    """
    return _resized(pixels, height, width, Image.Resampling.BICUBIC, exact)


def resize_bilinear(pixels: Pixels, height: int, width: int, *, exact: bool = True) -> Pixels:
    """Resize as `PIL.Image.resize(…, BILINEAR)` does: antialiased, on uint8. Arguments as of `resize_bicubic`."""
    return _resized(pixels, height, width, Image.Resampling.BILINEAR, exact)


def _resized(pixels: Pixels, height: int, width: int, kind: Image.Resampling, exact: bool) -> Pixels:
    source = _picture(pixels)
    if exact or cykooz_resizer is None:
        return _rgb(source.resize((width, height), kind))
    filters = {
        Image.Resampling.BICUBIC: cykooz_resizer.FilterType.catmull_rom,  # bicubic with a = −0.5
        Image.Resampling.BILINEAR: cykooz_resizer.FilterType.bilinear,
    }
    options = cykooz_resizer.ResizeOptions(resize_alg=cykooz_resizer.ResizeAlg.convolution(filters[kind]))
    resizer = cykooz_resizer.Resizer()
    for size in ((width, source.height), (width, height)):  # at once it would begin with the columns
        resized = Image.new(source.mode, size)
        resizer.resize_pil(source, resized, options)
        source = resized
    return _rgb(source)


def _picture(pixels: Pixels) -> Image.Image:
    """Return pixels as a picture; those of four bytes, as Pillow's are, without a copy.

    Those it takes for CMYK, the mode in which each of four channels is resized for itself.
    """
    if pixels.shape[2] == 3:
        return Image.fromarray(pixels)
    height, width = pixels.shape[:2]
    return Image.frombuffer("CMYK", (width, height), pixels, "raw", "CMYK", 0, 1)


def _rgb(picture: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(picture)[:, :, :3])


def encode_png(levels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Encode `(H, W)` uint8 or uint16 grey levels, or `(H, W, 3) uint8 RGB`, as a PNG of as many bits.

    Of 12 megapixels of depth ISA-L's deflate makes a PNG in a quarter of OpenCV's fastest time, a fifth smaller; and no
    library writes PNG with it. The format is PNG (ISO/IEC 15948:2004), each row filtered by Up.
    """
    height, width = levels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * levels.itemsize, 2 if levels.ndim == 3 else 0, 0, 0, 0)
    big_endian = np.ascontiguousarray(levels, levels.dtype.newbyteorder(">"))
    rows = big_endian.view(np.uint8).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = 2  # Up: of each byte what it differs from the one above it
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for processes that share their cores with others."""
    cv2.setNumThreads(1)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))


def _of_bytes_allowed(data: bytes) -> bytes:
    most = limits.current().max_bytes
    if len(data) > most:
        raise ImageTooLarge(
            f"The photo has {len(data) / 2**20:.1f} MiB, the limit is {most / 2**20:g} MiB.", "Send a smaller one."
        )
    return data


def _enough(photo: picture.Opened, at_least: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width to decode at least, as the photo lies in its file; zeros for the whole of it."""
    if at_least is None or any(8 * few > _MOST_EIGHTHS * full for few, full in zip(at_least, photo.size, strict=True)):
        return 0, 0
    height, width = at_least
    return (width, height) if photo.orientation in picture.TURNING else (height, width)


def _decode_jpeg(data: bytes, colours: str, min_height: int, min_width: int) -> Pixels | None:
    """Decode with simplejpeg: bit-identical to Pillow and 2–3 times faster. None where Pillow must decide.

    `strict` turns libjpeg-turbo's warnings into errors; Pillow knows which of them are damage (a truncated file) and
    which are harmless (stray bytes between markers).
    """
    try:
        return simplejpeg.decode_jpeg(  # type: ignore[no-any-return]
            data, colorspace=colours, min_height=min_height, min_width=min_width, strict=True
        )
    except ValueError:
        return None


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    operation = _UPRIGHT.get(orientation)
    return pixels if operation is None else np.ascontiguousarray(operation(pixels))
