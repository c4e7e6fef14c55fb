"""What inputs are made of: good files, edits of them, and JSON of anybody's."""

from __future__ import annotations

from io import BytesIO

import pillow_heif
from hypothesis import strategies as st
from PIL import Image


def edited(seeds: list[bytes], *, edits: int = 6) -> st.SearchStrategy[bytes]:
    """Seeds with bytes changed, cut out, put in and repeated."""
    place = st.floats(0, 1, exclude_max=True)
    patch = st.one_of(
        st.binary(min_size=1, max_size=8),
        st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xd8", b"../", b"1e999"]),
    )
    edit = st.tuples(st.sampled_from(["put", "change", "cut", "end", "repeat"]), place, place, patch)

    def apply(drawn: tuple[bytes, list[tuple[str, float, float, bytes]]]) -> bytes:
        data = bytearray(drawn[0])
        for what, at, length, put in drawn[1]:
            start = int(at * at * len(data))  # headers come first
            stop = start + int(length * min(len(data) - start, 64))
            if what == "put":
                data[start:start] = put
            elif what == "change":
                data[start : start + len(put)] = put
            elif what == "cut":
                del data[start:stop]
            elif what == "end":
                del data[start:]
            else:
                data[start:start] = data[start:stop] * 3
        return bytes(data)

    return st.tuples(st.sampled_from(seeds), st.lists(edit, max_size=edits)).map(apply)


def good_photos() -> list[bytes]:
    gradient = Image.merge("RGB", [Image.linear_gradient("L").resize((48, 32)).rotate(turn) for turn in (0, 90, 180)])
    exif = Image.Exif()
    exif[0x0112] = 6
    made = []
    pillow_heif.register_heif_opener(thumbnails=False)
    for format, mode, options in (
        ("JPEG", "RGB", {"exif": exif}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "I;16", {}), ("PNG", "1", {}),
        ("WEBP", "RGB", {}), ("WEBP", "RGB", {"lossless": True}), ("BMP", "RGB", {}), ("BMP", "P", {}),
        ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {"compression": "jpeg"}),
        ("TIFF", "L", {"compression": "packbits"}), ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "L", {"big_tiff": True, "exif": exif}), ("TIFF", "I;16", {}), ("GIF", "P", {}), ("GIF", "L", {}),
        ("WEBP", "RGBA", {"exif": exif, "xmp": b"<x/>"}), ("AVIF", "RGB", {"exif": exif}), ("AVIF", "L", {}),
        ("HEIF", "RGB", {}),
    ):  # fmt: skip
        buffer = BytesIO()
        picture = gradient.convert("L").convert("I;16") if mode == "I;16" else gradient.convert(mode)
        picture.save(buffer, format, **options)
        made.append(buffer.getvalue())
    return made


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["..", "/", "a/b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
