"""What a photo is, by whatever way it comes: an upright picture, RGB, 8 bits a sample. The one home of that rule.

It is what `PIL.ImageOps.exif_transpose(image).convert("RGB")` gives, bit for bit (`transformers` does that,
image_utils.py `load_image`), with three exceptions: grey of 12 and 16 bits is scaled to 8, where Pillow clips
everything above 255 to white; samples of which nothing says which is white are refused; and metadata that is broken or
large costs no photo (see `containers`). Alpha is dropped, colour profiles are not applied, of several frames the first
is taken. The server and the client read by it; it needs Pillow and numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from depthface import apart, containers, formats
from depthface.errors import ImageTooLarge, InvalidImage, InvalidInput
from depthface.limits import LARGEST_PIXELS, refuse_too_large

__all__ = [
    "TURNING",
    "Opened",
    "eight_bits",
    "has_memory_for",
    "opened",
    "orientation_of",
    "rgb",
    "says_no_memory",
    "turned",
    "upright",
]

TURNING = (5, 6, 7, 8)
"""Orientations that swap height and width."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation (EXIF 2.32, tag 0x0112) → what sets the picture upright, as in Pillow's `exif_transpose`."""

_ORIENTATIONS = range(1, 9)

_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF."""

_NO_WHITE = {"I": "32-bit integer", "F": "floating-point"}
"""Modes whose samples have no white of their own."""

_BITS_BY_BRIGHTEST = {"I": ((0, 0xFF, 8), (0x1000, 0xFFFF, 16)), "F": ((16, 0xFF, 8),)}
"""Between which values the brightest of such samples tells for sure how many bits they have. Elsewhere that would be a
guess which turns on a single pixel: a photo of 0 to 1.01 would be black."""

_MOST_BYTES_A_PIXEL = 16
"""What a decoder takes: libwebp the picture in four bytes a pixel three times, and Pillow once more."""

_NO_MEMORY = ("out of memory", "insufficient memory")
"""What decoders and OpenCV say, in any letters."""

_USUAL_TILE_PIXELS = 2**20
"""Of a tile of a TIFF, which may be larger than a small photo: sides of 256 to 1024 are usual."""

_APART = ("AVIF", "HEIC")
"""Formats that are decoded in a process of their own."""


@dataclass(frozen=True)
class Opened:
    """A photo's file, of which only the head has been read.

    Attributes:
        format: one of `formats.FORMATS`.
        mode: of the encoded pixels, as Pillow names it.
        data: the file, without metadata.
        size: height and width of the upright photo.
        orientation: what is still to be done to pixels that are decoded from `data`, 1 to 8 (EXIF).
        decoded: decodes it to an upright RGB picture.
    """

    format: str
    mode: str
    data: bytes
    size: tuple[int, int]
    orientation: int
    decoded: Callable[[], Image.Image]


@contextmanager
def opened(data: bytes, *, max_pixels: int = LARGEST_PIXELS) -> Iterator[Opened]:
    """Open a photo's file; nothing is decoded. Use it within the `with`, which says plainly what is wrong.

    Raises:
        ImageTooLarge: the photo has more pixels than `max_pixels`.
        InvalidImage: not a photo, of a format that is not taken, or damaged.
    """
    if not data:
        raise InvalidImage("There is no photo: it has no bytes.", "Send the bytes of a photo.")
    format = formats.format_of(data)
    if format is None:
        raise _not_taken(formats.stranger(data))
    lean = containers.lean(data, format)
    if lean.is_preview:
        raise _not_taken("a camera's raw file")
    if format in _APART:
        size = apart.size_of(lean.data, format, max_pixels=max_pixels)
        yield Opened(format, "RGB", lean.data, size, 1, lambda: apart.decode(lean.data, format, max_pixels=max_pixels))
        return
    canvas = containers.canvas_of_webp(lean.data) if format == "WebP" else (0, 0)
    refuse_too_large(*canvas, max_pixels)  # Pillow asks for the memory of a WebP's pixels as it opens it
    image = _image(lean, format, canvas[0] * canvas[1])
    width, height = image.size
    if not width * height:
        raise InvalidImage(f"The photo is {width}×{height}: it has no pixels.", "Send another one.")
    refuse_too_large(width, height, max_pixels)  # Pillow refuses only above twice its own limit
    _refuse_too_large_tiles(*lean.tile, max_pixels)  # libtiff asks for a whole one's memory, however small the photo
    size = (width, height) if lean.orientation in TURNING else (height, width)
    try:
        yield Opened(format, image.mode, lean.data, size, lean.orientation, lambda: turned(image, lean.orientation))
    except InvalidInput:
        raise
    # Pillow's plugins raise nearly anything on damaged files: OSError, SyntaxError, ValueError, struct.error, …
    except Exception as error:
        _raise_lack_of_memory(error, width * height)
        raise InvalidImage(f"The image is damaged or truncated ({error}).", "Send the whole file.") from error


def upright(picture: Image.Image) -> Image.Image:
    """Return a picture in memory, or one that Pillow has opened, as an upright RGB picture without metadata.

    Raises:
        InvalidImage: closed, without pixels, damaged, or of samples that say not how bright they are.
    """
    tile = getattr(picture, "tile", None)
    try:
        try:
            picture.load()
        except Exception as error:  # Pillow may give a photo up for its metadata
            _raise_lack_of_memory(error, picture.width * picture.height)
            data = _again(picture)
            if not data:
                raise
            picture.tile = tile  # type: ignore[attr-defined]  # as it was: not loaded
            with opened(data) as photo:
                return photo.decoded()
        if not picture.width * picture.height:
            raise InvalidImage(
                f"The picture is {picture.width}×{picture.height}: it has no pixels.", "Give another one."
            )
        made = _transposed(rgb(picture), orientation_of(picture))
        made = made.copy() if made is picture else made
        made.info = {}
        return made
    except InvalidInput:
        raise
    except Exception as error:
        _raise_lack_of_memory(error, picture.width * picture.height)
        if isinstance(error, AssertionError | AttributeError) or "closed" in str(error):
            raise InvalidImage(
                "The picture is closed, and its pixels cannot be read any more.",
                "Give it before its `with` ends, or call its `load()` there.",
            ) from error
        raise InvalidImage(f"The picture is damaged or truncated ({error}).", "Give a whole one.") from error


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Decode what Pillow has opened, to an RGB picture that is set upright from `orientation`, 1 to 8 (EXIF)."""
    image.load()
    return _transposed(rgb(image), orientation)


def rgb(picture: Image.Image) -> Image.Image:
    """Return a loaded picture of any mode as RGB, 8 bits a sample; a new one unless it is RGB already.

    Raises:
        InvalidImage: neither the mode nor the file says which value is white.
    """
    tags = getattr(picture, "tag_v2", None)  # of a TIFF, which Pillow obeys for some depths alone
    if picture.mode.startswith("I;16"):
        bits, photometric = (16, 1) if tags is None else (tags.get(_BITS, (16,))[0], tags.get(_PHOTOMETRIC, 0))
        grey = eight_bits(np.asarray(picture), bits)
        return Image.fromarray(grey if photometric else 255 - grey).convert("RGB")
    if picture.mode == "I" and picture.format == "PPM":  # Pillow has scaled it so that 65535 is white
        return Image.fromarray(eight_bits(np.asarray(picture))).convert("RGB")
    if picture.mode in _NO_WHITE:
        return _of_no_white(picture, is_signed=tags is not None and tags.get(_SAMPLE_FORMAT) == (2,))
    if picture.mode == "L" and tags is not None and tags.get(_SAMPLE_FORMAT) == (2,):
        raise _no_white("signed 8-bit", np.asarray(picture).view(np.int8))
    if picture.mode == "LAB":
        raise InvalidImage("The picture's colours are LAB, which is not taken.", "Save it as RGB.")
    if picture.mode in ("La", "RGBa"):  # premultiplied: Pillow knows only the way by alpha
        picture = picture.convert(picture.mode[:-1] + "A")
    if picture.mode == "RGB":
        return picture
    if "transparency" in picture.info:  # Pillow would warn, or fail where it is broken; it changes no colour
        picture = picture.copy()
        del picture.info["transparency"]
    return picture.convert("RGB")


def _of_no_white(picture: Image.Image, *, is_signed: bool) -> Image.Image:
    samples = np.asarray(picture)
    for least, most, bits in _BITS_BY_BRIGHTEST[picture.mode]:
        if samples.min() >= 0 and least <= samples.max() <= most and not is_signed:  # NaN is neither
            return Image.fromarray(eight_bits(samples.astype(np.uint16), bits)).convert("RGB")
    raise _no_white(_NO_WHITE[picture.mode], samples)


def _no_white(kind: str, samples: np.ndarray) -> InvalidImage:  # type: ignore[type-arg]
    return InvalidImage(
        f"The picture has {kind} samples, here from {samples.min():.6g} to {samples.max():.6g}, and does not say which "
        "of them is white.",
        "Scale them, and make it a picture of 8 bits, where 255 is white (mode L in Pillow), or of 16, where 65535 is "
        "(I;16).",
    )


def eight_bits(levels: np.ndarray, bits: int = 16) -> np.ndarray:  # type: ignore[type-arg]
    """Levels of 8 to 16 bits as 8-bit ones, of the same shape: their upper 8, which is what PNG means (13.12)."""
    return (levels >> (bits - 8)).astype(np.uint8)


def orientation_of(picture: Image.Image) -> int:
    """How a loaded picture is turned, 1 to 8 (EXIF); 1 where it does not say so, or its EXIF is broken.

    Its EXIF is read as a file's is, unless the tag has been changed in memory since.
    """
    exif, xmp = (value if isinstance(value := picture.info.get(key), bytes) else None for key in ("exif", "xmp"))
    if picture.format == "AVIF":  # its own properties say it, which Pillow puts there; XMP does not count
        return containers.turned(exif, None)
    try:
        said = picture.getexif().get(ExifTags.Base.Orientation)
        if exif is not None:
            in_file = Image.Exif()
            in_file.load(exif)
            if said == in_file.get(ExifTags.Base.Orientation):
                return containers.turned(exif, xmp)
    except Exception:  # as above
        return containers.turned(exif, xmp)
    return next((turn for turn in _ORIENTATIONS if said == turn), 1)  # as the reference: 6.0 is 6, and text is not


def _refuse_too_large_tiles(width: int, height: int, max_pixels: int) -> None:
    limit = max(max_pixels, _USUAL_TILE_PIXELS)
    if width * height > limit:
        raise ImageTooLarge(
            f"The photo is in tiles of {width}×{height}, the limit is {limit / 1e6:.4g} megapixels.",
            "Save the photo again as PNG.",
        )


def _image(lean: containers.Lean, format: str, pixels: int) -> Image.Image:
    try:
        return Image.open(BytesIO(lean.data), formats=[format])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"The photo has more than {LARGEST_PIXELS / 1e6:.0f} megapixels and was not decoded.",
            "Scale it down first.",
        ) from error
    except Exception as error:
        _raise_lack_of_memory(error, pixels)
        why = lean.kind or ("" if isinstance(error, UnidentifiedImageError) else str(error))
        raise InvalidImage(
            f"This {format} is damaged, or of a kind that cannot be read{f' ({why})' if why else ''}.",
            "Send the whole file, or save the photo as JPEG or as PNG of 8 bits.",
        ) from error


def _raise_lack_of_memory(error: Exception, pixels: int) -> None:
    """Raise `MemoryError` if it was that: the photo may be sound.

    Some decoders say it as an OSError, and libwebp and libtiff as they say that a file is damaged. So it was that too
    if there is not the memory now that a decoder takes for so many pixels.
    """
    if says_no_memory(error) or not has_memory_for(pixels):
        raise MemoryError("There is not enough memory for this photo.") from error


def says_no_memory(error: Exception) -> bool:
    """Return whether a decoder, or OpenCV, has said so, each in its way."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _NO_MEMORY)


def has_memory_for(pixels: int) -> bool:
    """Return whether there is the memory now that a decoder takes for so many pixels."""
    try:
        np.empty(_MOST_BYTES_A_PIXEL * pixels, np.uint8)  # not touched, so that it costs nothing
    except MemoryError:
        return False
    return True


def _not_taken(name: str | None) -> InvalidImage:
    what = "These bytes are not an image." if name is None else f"This is {name}, which is not taken."
    return InvalidImage(what, f"Send one of: {', '.join(formats.FORMATS)}.")


def _again(picture: Image.Image) -> bytes | None:
    """Return the file of a picture that Pillow could not load, if it is still there and was to give its first frame."""
    file = getattr(picture, "fp", None)
    if file is None or picture.tell():
        return None
    try:
        file.seek(0)
        return bytes(file.read())
    except (OSError, ValueError, AttributeError):  # it was closed
        return None


def _transposed(picture: Image.Image, orientation: int) -> Image.Image:
    method = _TRANSPOSE.get(orientation)
    return picture if method is None else picture.transpose(method)
