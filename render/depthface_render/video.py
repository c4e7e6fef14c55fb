"""Frames to a file: mp4, webm, gif, animated webp, or numbered PNGs. Written aside, moved to its name when whole."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av import VideoStream
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from depthface.errors import InvalidInput, OutputError
from depthface_client import outputs
from depthface_render.convert import converter

__all__ = ["FORMATS", "Format", "check_place", "check_rate", "files_of", "format_of", "told", "write"]

Pixels = npt.NDArray[np.uint8]

_BT709 = 1
"""Primaries and transfer of ITU-T H.273, as every player assumes for video of this size."""


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: what people call it.
        codec: FFmpeg's encoder; empty for PNGs.
        pixel_format: FFmpeg's, of the frames encoded.
        codec_options, container_options: FFmpeg's.
        is_subsampled: whether colour has half the resolution, so that sides must be even.
        max_fps: the highest rate that players keep to.
        ticks: time steps a second that the file can say, if not the rate itself.
    """

    name: str
    codec: str = ""
    pixel_format: str = ""
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    is_subsampled: bool = False
    max_fps: int = 120
    ticks: int = 0


FORMATS = {
    ".mp4": Format(
        "H.264 video",
        "libx264",
        "yuv420p",
        {"crf": "18", "preset": "veryfast", "profile": "high"},
        {"movflags": "+faststart"},
        is_subsampled=True,
    ),
    ".webm": Format(
        "VP9 video",
        "libvpx-vp9",
        "yuv420p",
        {"crf": "28", "b": "0", "deadline": "good", "cpu-used": "5", "row-mt": "1"},
        is_subsampled=True,
    ),
    ".gif": Format("GIF", "gif", "pal8", max_fps=50, ticks=100),
    ".webp": Format(
        "animated WebP",
        "libwebp_anim",
        "bgra",
        {"quality": "80", "compression_level": "2"},
        max_fps=60,
        ticks=1000,
    ),
    ".png": Format("numbered PNGs"),
}

_NUMBER = re.compile(r"%0?\d*d")


def format_of(out: Path) -> Format:
    """Say what the name of a file asks for.

    Raises:
        InvalidInput: an unknown suffix; PNGs without a number in their name, or a film with one.
    """
    found = FORMATS.get(out.suffix.lower())
    if found is None:
        raise InvalidInput(
            f"{out} is none of the kinds of clip that can be made.", f"End the name in {', '.join(FORMATS)}."
        )
    is_numbered = bool(_NUMBER.search(out.name))
    if is_numbered == bool(found.codec) or out.name.count("%") > 1:
        raise InvalidInput(
            f"{out} is not a name that can be used.", "Give one such as clip.mp4, or for a PNG a frame frames/%04d.png."
        )
    return found


def files_of(out: Path, frames: int) -> list[Path]:
    """Return the files that a clip of so many frames is written to."""
    if format_of(out).codec:
        return [out]
    return [out.with_name(out.name % number) for number in range(1, frames + 1)]


def check_rate(out: Path, rate: Fraction) -> None:
    """Raise `InvalidInput` if the players of this kind of file do not keep to so high a rate."""
    form = format_of(out)
    if rate > form.max_fps:
        raise InvalidInput(
            f"{out.suffix.upper().removeprefix('.')} files show at most {form.max_fps} frames a second, not "
            f"{float(rate):g}.",
            f"Give --fps {form.max_fps} or less, or another format.",
        )


def check_place(out: Path, frames: int) -> None:
    """Raise if a clip of so many frames cannot get its name, as far as that can be told before it is made.

    Raises:
        InvalidInput: older PNGs would be taken for a part of the sequence.
        OutputError: a folder has the name of a file, or no file can be made beside it.
    """
    for path in files_of(out, frames):
        outputs.check_place(path)
    outputs.check_place(out, is_made_beside=True)
    leftover = None if format_of(out).codec else out.with_name(out.name % (frames + 1))
    if leftover is not None and leftover.exists():
        raise InvalidInput(
            f"{leftover} is there already and would be taken for a part of this clip.",
            "Remove it, or choose another folder.",
        )


def told(kept: Sequence[Path], of: str = "it") -> str:
    """Say which files are there although something went wrong; `of` is what they are a part of."""
    if not kept:
        return f"Nothing of {of} was kept."
    if len(kept) == 1:
        return f"{kept[0]} was kept."
    return f"{len(kept)} files were kept, the last of them {kept[-1]}."


def write(
    out: Path,
    frames: Iterable[Pixels],
    *,
    rate: Fraction,
    loop: bool,
    source: str,
    kept: list[Path] | None = None,
) -> None:
    """Write a clip: the whole of it or nothing; of numbered PNGs, which are many files, each.

    Args:
        out: see `format_of`.
        frames: `(H, W, 3) uint8 RGB` each, one size; even sides where the format is subsampled.
        rate: frames a second.
        loop: whether a GIF or a WebP plays for ever.
        source: what made the depth, for the file's metadata.
        kept: the files that are there, to which each is added as it gets its name.

    Raises:
        InvalidInput: the rate is above what the format's players keep to, or older PNGs would be taken for a part of
            the sequence.
        OutputError: it cannot be written.
    """
    form = format_of(out)
    check_rate(out, rate)
    kept = [] if kept is None else kept
    with _aside(out, kept) as folder:
        if not form.codec:
            _write_pngs(folder, out, frames, source, kept)
        else:
            _encode(folder / f"clip{out.suffix.lower()}", form, frames, rate, loop, source)
            outputs.move(folder / f"clip{out.suffix.lower()}", out)
            kept.append(out)


@contextmanager
def _aside(out: Path, kept: Sequence[Path]) -> Iterator[Path]:
    """Lend a folder beside `out`; if anything goes wrong, the folders that were made for it go, too."""
    beside = Path(os.path.realpath(out)).parent  # where a link leads to
    missing = [parent for parent in (beside, *beside.parents) if not parent.exists()]
    try:
        try:
            beside.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=".depthface-", dir=beside))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except BaseException:
            for parent in missing:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
            raise
    except MemoryError:  # FFmpeg's is one of FFmpeg's errors, too
        raise
    except UnknownCodecError as error:
        raise OutputError(f"{out} cannot be written (this FFmpeg has no encoder {error}). {told(kept)}") from error
    except (OSError, FFmpegError) as error:
        raise OutputError(f"{out} cannot be written ({error.strerror or error}). {told(kept)}") from error


def _write_pngs(folder: Path, out: Path, frames: Iterable[Pixels], source: str, kept: list[Path]) -> None:
    info = PngInfo()
    info.add_text("Source", source)
    names = []
    for number, frame in enumerate(frames, 1):
        names.append(out.name % number)
        Image.fromarray(frame).save(folder / names[-1], "PNG", pnginfo=info, compress_level=3)
    check_place(out, len(names))
    for name in names:
        outputs.move(folder / name, out.with_name(name))
        kept.append(out.with_name(name))


def _encode(path: Path, form: Format, frames: Iterable[Pixels], rate: Fraction, loop: bool, source: str) -> None:
    options = dict(form.container_options)
    if path.suffix in (".gif", ".webp"):
        options["loop"] = "0" if loop else ("-1" if path.suffix == ".gif" else "1")
    with av.open(str(path), "w", container_options=options) as container:
        container.metadata["comment"] = source
        stream = container.add_stream(form.codec, rate=rate, options=dict(form.codec_options))
        assert isinstance(stream, VideoStream)
        convert = converter(form.pixel_format)
        tick = Fraction(1, form.ticks) if form.ticks else 1 / rate
        stream.codec_context.time_base = tick
        for number, pixels in enumerate(frames):
            if number == 0:
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = form.pixel_format
                if path.suffix in (".mp4", ".webm"):
                    context = stream.codec_context
                    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
                    context.color_primaries = context.color_trc = _BT709
            frame = convert(pixels)
            frame.time_base = tick
            frame.pts = round(number / rate / tick)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
