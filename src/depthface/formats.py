"""What a file is, by its first bytes: the formats that are taken, and the names of those that are not."""

from __future__ import annotations

import re

__all__ = ["FORMATS", "format_of", "stranger"]

FORMATS = ("JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF", "HEIC")
"""What is taken, as it is named to people."""

_HEAD_BYTES = 4096
"""Among these a text says what it is."""

_TAKEN: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", "BMP"),
    (rb"II[*+]\x00|MM\x00[*+]", "TIFF"),
    (rb"GIF8[79]a", "GIF"),
)

_STRANGERS: tuple[tuple[bytes, str], ...] = (
    (rb"\x00\x00\x00\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", "a JPEG 2000 file"),
    (rb"\x00\x00\x00\x0cJXL \r\n\x87\n|\xff\x0a", "a JPEG XL file"),
    (rb"II\xbc\x01", "a JPEG XR file"),
    (rb"II\*\x00....CR|II(RO|RS|U\x00)|MMOR|FUJIFILMCCD-RAW|FOVb|\x00MRM|II....HEAPCCDR", "a camera's raw file"),
    (rb"8BPS", "a Photoshop file"),
    (rb"gimp xcf", "a GIMP file"),
    (rb"%PDF-", "a PDF"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]", "an icon"),
    (rb"icns", "an icon"),
    (rb"P[1-6]\s+(#|\d+\s+\d+\s)|P7\nWIDTH|P[Ff]\n", "a Netpbm file (PBM, PGM, PPM, PFM)"),
    (rb"v/1\x01", "an OpenEXR file"),
    (rb"#\?(RADIANCE|RGBE)", "a Radiance HDR file"),
    (rb"DDS ", "a DDS texture"),
    (rb"qoif", "a QOI file"),
    (rb"BPG\xfb", "a BPG file"),
    (rb"FLIF", "a FLIF file"),
    (rb"\x8aMNG|\x8bJNG", "an MNG file"),
    (rb"\x01\xda[\x00\x01][\x01\x02]", "an SGI file"),
    (rb"\n[\x00-\x05]\x01[\x01\x02\x04\x08]", "a PCX file"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"\xd7\xcd\xc6\x9a|\x01\x00\x00\x00.{36} EMF", "a Windows metafile"),
    (rb"....ftypcrx ", "a camera's raw file"),
    (rb"....(ftyp|moov|mdat|wide)|\x1aE\xdf\xa3|RIFF....AVI |FLV\x01|\x00\x00\x01[\xba\xb3]|OggS", "a video"),
    (rb"0&\xb2u\x8ef\xcf\x11|G.{187}G.{187}G", "a video"),
    (rb"RIFF....WAVE|ID3|fLaC", "a sound file"),
    (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!\x1a|\xfd7zXZ\x00|BZh[1-9]|\x28\xb5\x2f\xfd", "an archive"),
    (rb"\x93NUMPY", "a NumPy file"),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the photo itself"),
)

# Of texts, what stands in their beginning; a mark of their encoding, comments and so on may stand before it.
_TEXTS: tuple[tuple[bytes, str], ...] = (
    (rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head|body)[\s>]", "a web page (HTML)"),
    (rb"(\xef\xbb\xbf)?\s*<(svg[\s>/]|(\?xml|!--|!doctype\s+svg).*<(\w+:)?svg[\s>/])", "an SVG drawing"),
)

_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2", b"heif"}
)


def format_of(data: bytes) -> str | None:
    """Return the name, one of `FORMATS`, of the format whose signature the file has; None for any other.

    AVIF and HEIC are told apart by the brands of their `ftyp` box (ISO/IEC 14496-12, 4.3; 23008-12, 10.2).
    """
    if data[4:8] == b"ftyp":
        end = min(int.from_bytes(data[:4], "big"), 256)
        brands = {data[8:12], *(data[at : at + 4] for at in range(16, end, 4))}
        if brands & _AVIF_BRANDS:
            return "AVIF"
        return "HEIC" if brands & _HEIC_BRANDS and b"crx " not in brands else None
    if re.match(rb"II\*\x00....CR", data, re.DOTALL):  # a Canon's raw file looks like a TIFF otherwise
        return None
    return next((name for signature, name in _TAKEN if re.match(signature, data, re.DOTALL)), None)


def stranger(data: bytes) -> str | None:
    """Return what a file is that is not taken, as it stands in "This is …"; None where its bytes do not say."""
    head = data[:_HEAD_BYTES]
    for signature, name in _STRANGERS:
        if re.match(signature, head, re.DOTALL):
            return name
    for signature, name in _TEXTS:
        if re.match(signature, head, re.DOTALL | re.IGNORECASE):
            return name
    return "a Targa file" if data[-18:] == b"TRUEVISION-XFILE.\x00" else None
