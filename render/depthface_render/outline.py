"""The outline of a foreground: in its pixels the photo mixes two surfaces, which are to move apart."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["matte", "nearest"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

_UNSURE = 600.0
"""Below this squared distance of two colours (three channels), geometry decides what share each has."""


def nearest(where: Flags) -> tuple[Floats, npt.NDArray[np.intp]]:
    """For each pixel the distance to the nearest of those `where` is true, and the flat index of that one."""
    distance_px, label = cv2.distanceTransformWithLabels(
        (~where).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    index = np.zeros(int(label.max()) + 1, np.intp)
    flat = np.flatnonzero(where)
    index[label.ravel()[flat]] = flat
    return np.asarray(distance_px, np.float32), index[label]


def matte(colour: Pixels, behind: Pixels, *, inside: Flags, rim: Flags, outside: Flags) -> tuple[Pixels, Flags, Floats]:
    """Part the colours of an outline: colour = opacity · foreground + (1 − opacity) · background.

    Args:
        colour: `(h, w, 3) uint8 RGB`, the photo.
        behind: the same with the background going on behind the foreground.
        inside: foreground, by its depth, near an edge.
        rim: what it has grown over.
        outside: background right outside the rim.

    Returns:
        The foreground's own colour, that of the nearest pixel that is foreground alone, in the outline, and `colour`
        elsewhere; which pixels are outline; and their opacity, with 0 `outside` and 1 elsewhere.
    """
    opacity = np.where(outside, np.float32(0), np.float32(1))
    if not inside.any():
        return colour, rim, opacity
    kernel = np.ones((3, 3), np.uint8)
    core = np.asarray(cv2.erode(inside.astype(np.uint8), kernel), bool)
    is_thick = np.asarray(cv2.dilate(core.astype(np.uint8), np.ones((5, 5), np.uint8)), bool)
    out_px, _ = nearest(inside)
    in_px, _ = nearest(~inside)
    soft = rim | (inside & (in_px < 2))
    own = colour.reshape(-1, 3)[nearest(core | (inside & ~is_thick))[1][soft]].astype(np.float32)

    # What geometry allows: outward of the edge less and less, inward more and more.
    out, into, is_rim = out_px[soft], in_px[soft], rim[soft]
    most = np.where(is_rim, np.clip(1.25 - 0.5 * out, 0, 1), 1)
    least = np.where(is_rim, 0, np.clip(into - 0.7, 0.3, 1))
    guess = np.where(is_rim, np.clip(1.2 - out, 0, 1), 0.8)
    back = behind[soft].astype(np.float32)
    apart = own - back
    shared = ((colour[soft] - back) * apart).sum(1) + _UNSURE * guess
    opacity[soft] = np.clip(shared / ((apart**2).sum(1) + _UNSURE), least, most)
    front = colour.copy()
    front[soft] = np.rint(own)
    return front, soft, opacity
