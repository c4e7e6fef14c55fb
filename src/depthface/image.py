"""Photos between bytes and arrays: decode, resize, encode. Arrays are `(H, W, 3) uint8 RGB`, upright.

What comes out of `decode` is what `PIL.ImageOps.exif_transpose(image).convert("RGB")` gives, bit for bit (that is what
`transformers` does, image_utils.py `load_image`), with one exception: 16-bit grey is scaled to 8 bits, where Pillow
clips everything above 255 to white.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from depthface.errors import ImageTooLarge, InvalidImage

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "decode", "encode_png", "resize_bicubic", "use_one_thread"]

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")

MAX_BYTES = 64 * 2**20
"""The largest encoded photo."""

MAX_PIXELS = 89_478_485
"""The largest photo, in pixels: Pillow's own limit (Image.MAX_IMAGE_PIXELS), a 256 MiB picture."""

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


def decode(data: bytes) -> Pixels:
    """Decode an encoded photo, EXIF orientation applied.

    Args:
        data: a JPEG, PNG, WebP, BMP or TIFF file, at most `MAX_BYTES` long and `MAX_PIXELS` large.

    Returns:
        `(H, W, 3) uint8 RGB`, C-contiguous. Alpha is dropped; of several frames the first is taken.

    Raises:
        ImageTooLarge: over a limit; nothing has been decoded.
        InvalidImage: empty, not an image, of another format, or damaged.
    """
    if not data:
        raise InvalidImage("The request holds no photo: its body is empty. Send the bytes of a photo.")
    if len(data) > MAX_BYTES:
        raise ImageTooLarge(
            f"The photo has {len(data) / 2**20:.0f} MiB, the limit is {MAX_BYTES // 2**20} MiB. Send a smaller one."
        )
    with _pillow_speaks_plainly():
        image = Image.open(BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:  # Pillow refuses only above twice this
            raise ImageTooLarge(
                f"The photo is {width}×{height}, the limit is {MAX_PIXELS / 1e6:.0f} megapixels. Scale it down first."
            )
        if image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L"):
            pixels = _decode_jpeg(data)
            if pixels is not None:
                return _upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def resize_bicubic(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resize as `PIL.Image.resize(…, BICUBIC)` does: antialiased, a = −0.5, on uint8.

    Args:
        pixels: `(H, W, 3) uint8`.

    Returns:
        `(height, width, 3) uint8`.
    """
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image)


def encode_png(picture: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> bytes:
    """Encode `(H, W)` uint8 or uint16 grey levels, or `(H, W, 3) uint8 RGB`, as a PNG of as many bits.

    OpenCV's default parameters choose its fast filter and compression: 6 times faster than Pillow, 1.1 times larger.
    """
    _, data = cv2.imencode(".png", picture[:, :, ::-1] if picture.ndim == 3 else picture)
    return data.tobytes()


def use_one_thread() -> None:
    """Keep OpenCV to the calling thread, for processes that share their cores with others."""
    cv2.setNumThreads(1)


def _decode_jpeg(data: bytes) -> Pixels | None:
    """Decode with simplejpeg: bit-identical to Pillow and 2–3 times faster. None where Pillow must decide.

    `strict` turns libjpeg-turbo's warnings into errors; Pillow knows which of them are damage (a truncated file) and
    which are harmless (stray bytes between markers).
    """
    try:
        return simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True)  # type: ignore[no-any-return]
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
            f"The photo has more than {MAX_PIXELS / 1e6:.0f} megapixels and was not decoded. Scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"These bytes are not an image. Send one of: {', '.join(FORMATS)}.") from error
    # Pillow's plugins raise nearly anything on damaged files: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        raise InvalidImage(f"The image is damaged or truncated ({error}). Send the whole file.") from error
