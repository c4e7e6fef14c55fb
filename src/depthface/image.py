"""Photos between bytes and arrays: decode, resize, encode. Arrays are `(H, W, 3) uint8 RGB`, upright.

What comes out of `decode` is what `PIL.ImageOps.exif_transpose(image).convert("RGB")` gives, bit for bit (that is what
`transformers` does, image_utils.py `load_image`), with one exception: 16-bit grey is scaled to 8 bits, where Pillow
clips everything above 255 to white.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from isal import isal_zlib
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

try:
    import cykooz_resizer
except ModuleNotFoundError:  # there is no wheel for Linux on ARM
    cykooz_resizer = None

from depthface import limits
from depthface.errors import ImageTooLarge, InvalidImage
from depthface.limits import LARGEST_PIXELS

__all__ = ["FORMATS", "decode", "encode_png", "resize_bicubic", "size_of", "use_one_thread"]

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

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

_TURNING = (5, 6, 7, 8)
"""Orientations that swap height and width."""


def decode(data: bytes, *, at_least: tuple[int, int] | None = None) -> Pixels:
    """Decode an encoded photo, EXIF orientation applied.

    Args:
        data: a JPEG, PNG, WebP, BMP or TIFF file, within `limits.current()`.
        at_least: height and width, upright, that are enough: a larger JPEG is decoded to the nearest eighth of its size
            that is no smaller, by leaving out high frequencies of its cosine transform.

    Returns:
        `(H, W, 3) uint8 RGB`, C-contiguous. Alpha is dropped; of several frames the first is taken.

    Raises:
        ImageTooLarge: over a limit; nothing has been decoded.
        InvalidImage: empty, not an image, of another format, or damaged.
    """
    with _opened(data) as image:
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            enough = at_least[::-1] if at_least and orientation in _TURNING else at_least
            pixels = _decode_jpeg(data, *(enough or (0, 0)))
            if pixels is not None:
                return _upright(pixels, orientation)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def size_of(data: bytes) -> tuple[int, int]:
    """The height and width of an encoded photo, upright, without decoding it; raises as `decode` does."""
    with _opened(data) as image:
        width, height = image.size
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNING
        if is_turned and image.format != "TIFF":  # of a TIFF Pillow turns the size itself
            width, height = height, width
        return height, width


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The photo with its header read and its limits held; what is wrong with the bytes is said plainly."""
    if not data:
        raise InvalidImage("The request holds no photo: its body is empty. Send the bytes of a photo.")
    limit = limits.current()
    if len(data) > limit.max_bytes:
        raise ImageTooLarge(
            f"The photo has {len(data) / 2**20:.1f} MiB, the limit is {limit.max_bytes / 2**20:g} MiB. Send a smaller "
            "one."
        )
    with _pillow_speaks_plainly():
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > limit.max_pixels:  # Pillow refuses only above twice this
            raise ImageTooLarge(
                f"The photo is {width}×{height}, the limit is {limit.max_pixels / 1e6:.4g} megapixels. Scale it down "
                "first."
            )
        yield image


def resize_bicubic(pixels: Pixels, height: int, width: int, *, exact: bool = True) -> Pixels:
    """Resize as `PIL.Image.resize(…, BICUBIC)` does: antialiased, a = −0.5, on uint8.

    Args:
        pixels: `(H, W, 3) uint8`.
        exact: by Pillow itself. Otherwise by fast_image_resize, where that is installed: of 12 megapixels in a fifth of
            the time. Its weights have 16 bits where Pillow's have 22, so one sample in 200 is off by one level, few by
            two. As Pillow it resizes the rows first; but Pillow 13 begins with the columns where the height shrinks
            much more than the width, and then differs from this, and from Pillow 12, by a level in one sample of ten.

    Returns:
        `(height, width, 3) uint8`.
    """
    picture = Image.fromarray(pixels)
    if exact or cykooz_resizer is None:
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC))
    catmull_rom = cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.catmull_rom)  # bicubic with a = −0.5
    options, resizer = cykooz_resizer.ResizeOptions(resize_alg=catmull_rom), cykooz_resizer.Resizer()
    for size in ((width, picture.height), (width, height)):  # at once it would begin with the columns
        resized = Image.new("RGB", size)
        resizer.resize_pil(picture, resized, options)
        picture = resized
    return np.asarray(picture)


def encode_png(picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Encode `(H, W)` uint8 or uint16 grey levels, or `(H, W, 3) uint8 RGB`, as a PNG of as many bits.

    Of 12 megapixels of depth ISA-L's deflate makes a PNG in a quarter of OpenCV's fastest time, a fifth smaller; and no
    library writes PNG with it. The format is PNG (ISO/IEC 15948:2004), each row filtered by Up.
    """
    height, width = picture.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * picture.itemsize, 2 if picture.ndim == 3 else 0, 0, 0, 0)
    big_endian = np.ascontiguousarray(picture, picture.dtype.newbyteorder(">"))
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


def _decode_jpeg(data: bytes, min_height: int, min_width: int) -> Pixels | None:
    """Decode with simplejpeg: bit-identical to Pillow and 2–3 times faster. None where Pillow must decide.

    `strict` turns libjpeg-turbo's warnings into errors; Pillow knows which of them are damage (a truncated file) and
    which are harmless (stray bytes between markers).
    """
    try:
        return simplejpeg.decode_jpeg(  # type: ignore[no-any-return]
            data, colorspace="RGB", min_height=min_height, min_width=min_width, strict=True
        )
    except ValueError:
        return None


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    operation = _UPRIGHT.get(orientation)
    return pixels if operation is None else np.ascontiguousarray(operation(pixels))


@contextmanager
def _pillow_speaks_plainly() -> Iterator[None]:
    """Turn whatever Pillow raises for bad bytes into this package's errors."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (ImageTooLarge, InvalidImage):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"The photo has more than {LARGEST_PIXELS / 1e6:.0f} megapixels and was not decoded. Scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"These bytes are not an image. Send one of: {', '.join(FORMATS)}.") from error
    # Pillow's plugins raise nearly anything on damaged files: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise InvalidImage(f"The image is damaged or truncated ({error}). Send the whole file.") from error
