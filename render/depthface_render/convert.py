"""RGB frames to what encoders take: 4:2:0 in BT.709, BGRA, or 256 colours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from av import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

__all__ = ["Convert", "converter"]

Pixels = npt.NDArray[np.uint8]
Convert = Callable[[Pixels], VideoFrame]
"""From `(H, W, 3) uint8 RGB`."""

# The ordered dither of Bayer (1973), 8 × 8, as thresholds −½…½: unlike error diffusion it does not swim from frame to
# frame, and what stands still costs a GIF nothing.
_BAYER = np.array([[0, 2], [3, 1]])
for _ in range(2):
    _BAYER = np.block([[4 * _BAYER, 4 * _BAYER + 2], [4 * _BAYER + 3, 4 * _BAYER + 1]])
_THRESHOLDS = (_BAYER + 0.5) / 64 - 0.5

_DITHER_LEVELS = 16
"""About the distance of two neighbours among 256 colours."""

_FREE_COLOURS = 253
"""Of 256: two are black and white, and the last is for what does not change."""


def converter(pixel_format: str) -> Convert:
    """How frames become `pixel_format`: FFmpeg's yuv420p, bgra or pal8. One converter serves one clip."""
    if pixel_format == "pal8":
        return _Palette()
    reformatter = VideoReformatter()  # each of its own would leave a scaler behind for every frame

    def convert(pixels: Pixels) -> VideoFrame:
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if pixel_format == "yuv420p":
            return reformatter.reformat(
                frame, format=pixel_format, dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
        return reformatter.reformat(frame, format=pixel_format)

    return convert


class _Palette:
    """Black, white, and the colours that suit the first frame, for all: the others show the same things elsewhere.

    A mask may be all black at first, and white comes later.
    """

    def __init__(self) -> None:
        self._nearest: Pixels | None = None  # of each colour of 6 bits a channel, which one of the palette
        self._table = np.zeros((256, 4), np.uint8)
        self._table[:, 0] = 255  # opaque
        self._table[1, 1:] = 255

    def __call__(self, pixels: Pixels) -> VideoFrame:
        if self._nearest is None:
            self._nearest = self._choose(Image.fromarray(pixels))
        height, width = pixels.shape[:2]
        tiles = np.tile(_THRESHOLDS, (-(-height // 8), -(-width // 8)))[:height, :width, None]
        dithered = np.clip(pixels + (_DITHER_LEVELS * tiles).astype(np.int32), 0, 255) >> 2
        indices = self._nearest[dithered[..., 0] << 12 | dithered[..., 1] << 6 | dithered[..., 2]]
        return VideoFrame.from_ndarray((indices, self._table), format="pal8")  # type: ignore[arg-type]  # a pair

    def _choose(self, picture: Image.Image) -> Pixels:
        suitable = picture.quantize(_FREE_COLOURS, Image.Quantize.MEDIANCUT, kmeans=1).getpalette("RGB")
        colours = np.array(suitable, np.uint8).reshape(-1, 3)[:_FREE_COLOURS]
        self._table[2 : 2 + len(colours), 1:] = colours
        palette = Image.new("P", (1, 1))
        palette.putpalette(self._table[:, 1:].tobytes())
        levels = np.arange(64, dtype=np.uint8) * 4 + 2
        every = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(512, 512, 3)
        return np.asarray(Image.fromarray(every).quantize(palette=palette, dither=Image.Dither.NONE)).ravel()
