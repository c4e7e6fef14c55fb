"""What may stand behind a foreground: smoothly (`smooth`), and with the texture of what is around (`textured`).

`smooth` is push-pull (Gortler et al., The Lumigraph, 1996). `textured` lets every unknown pixel take after a known one
whose surroundings look like its own: PatchMatch (Barnes et al., 2009) and voting (Wexler et al., Space-Time Completion
of Video, 2007), from coarse to fine. Lines and texture go on; a mean of what is around would be a smear.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from depthface.cores import Cores
from depthface_render.outline import nearest

__all__ = ["smooth", "textured"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int32]

_PATCH_PX = 3
"""Half the side of the patches compared: 7 × 7."""

_COARSEST_PX = 4
"""The farthest that an unknown pixel is from the known ones at the coarsest size."""

_FINEST_SIDE_PX = 720
"""Patches are compared in pictures up to this size, and larger ones filled after them."""

_ROUNDS = 3
_AROUND_PX = 16
"""How far around its own a source is looked for at first."""
_NEARBY = 0.02
"""What a source costs for each pixel that it is away, in squared grey levels: of equals the nearest is taken."""

_STRANGE = np.float32(4000)
"""What each pixel of a source's patch costs that is not known itself: else guesses would confirm each other."""


def smooth(values: Floats, known: Flags) -> Floats:
    """`values` where they are `known`, and a smooth continuation elsewhere; `(H, W)` or `(H, W, C)`."""
    weights = known.astype(np.float32)
    if not known.any():
        return values
    channels = (1,) * (values.ndim - 2)
    total: Floats = values * weights.reshape(*weights.shape, *channels)
    pyramid: list[tuple[Floats, Floats]] = []
    while min(weights.shape) > 1 and not weights.all():
        pyramid.append((total, weights))
        half = (-(-weights.shape[1] // 2), -(-weights.shape[0] // 2))
        weights = np.asarray(cv2.resize(weights, half, interpolation=cv2.INTER_AREA), np.float32)
        total = np.asarray(cv2.resize(total, half, interpolation=cv2.INTER_AREA), np.float32)
    total /= np.maximum(weights, 1e-6).reshape(*weights.shape, *channels)
    while pyramid:
        coarse, (total, weights) = total, pyramid.pop()  # in place: these arrays are the largest of a clip
        coarse = np.asarray(cv2.resize(coarse, weights.shape[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
        share = weights.reshape(*weights.shape, *channels)
        total /= np.maximum(share, 1e-6)
        total -= coarse
        total *= np.minimum(share, 1)
        total += coarse
    return total


def textured(colour: Pixels, known: Flags, wanted: Flags) -> Pixels:
    """`colour`, and where `wanted` a continuation of what is `known`; all else is taken for foreground.

    The same photo gives the same continuation.
    """
    if not known.any() or not wanted.any():
        return colour
    distance_px = cv2.distanceTransform((~known).astype(np.uint8), cv2.DIST_L2, 5)
    coarsest = max(int(np.ceil(np.log2(max(float(distance_px[wanted].max()) / _COARSEST_PX, 1)))), 0)
    random = np.random.default_rng(0)
    level, sources = None, None
    for halvings in range(coarsest, -1, -1):
        finer = _Level.of(colour, known, wanted, halvings)
        sources = finer.mirrored() if level is None or sources is None else finer.refined(level, sources)
        level = finer
        if max(level.known.shape) <= _FINEST_SIDE_PX or halvings == coarsest:
            for _ in range(_ROUNDS):
                sources = level.searched(sources, random)
                level.vote(sources)
    assert level is not None and sources is not None
    level.join(sources)
    filled = np.clip(np.rint(level.picture[level.rows, level.columns]), 0, 255).astype(np.uint8)
    out = colour.copy()
    out[level.rows - _PATCH_PX, level.columns - _PATCH_PX] = filled
    return out


def _in_threads(work: Callable[..., Floats], *arrays: Indices) -> Floats:
    """Return what `work` makes of the arrays, a part of them in each of as many threads as there are cores.

    A part is empty only where the arrays are.
    """
    threads = max(min(Cores.found().count, len(arrays[0])), 1)
    with ThreadPoolExecutor(threads) as pool:
        return np.concatenate(list(pool.map(work, *(np.array_split(array, threads) for array in arrays))))


@dataclass
class _Level:
    """The picture at one size, with a margin of `_PATCH_PX` in which nothing is known.

    Attributes:
        picture: `(h, w, 3) float32`; what is unknown is the present guess.
        known: where the picture is the background's own.
        trust: `(h, w) float32`, 1 where it is known, less with the distance from there, 0 in the foreground.
        rows, columns: of the unknown pixels, `(n,)`.
        number: `(h, w)`, which of them a pixel is, or −1.
    """

    picture: Floats
    known: Flags
    trust: Floats
    rows: Indices
    columns: Indices
    number: Indices

    @classmethod
    def of(cls, colour: Pixels, known: Flags, wanted: Flags, halvings: int) -> _Level:
        height, width = (max(side >> halvings, 1) for side in known.shape)

        def shrunk(array: npt.NDArray[np.float32]) -> Floats:
            return np.asarray(cv2.resize(array, (width, height), interpolation=cv2.INTER_AREA), np.float32)

        weights = shrunk(known.astype(np.float32))
        picture = shrunk((colour * known[..., None]).astype(np.float32))
        picture /= np.maximum(weights, 1e-3)[..., None]
        is_known = weights > 0.5
        unknown = (shrunk(wanted.astype(np.float32)) > 0) & ~is_known
        picture = smooth(picture, is_known)
        around = ((_PATCH_PX, _PATCH_PX), (_PATCH_PX, _PATCH_PX))
        picture = np.pad(picture, (*around, (0, 0)), mode="edge")
        is_known, unknown = np.pad(is_known, around), np.pad(unknown, around)
        rows, columns = (axis.astype(np.int32) for axis in np.nonzero(unknown))
        number = np.full(unknown.shape, -1, np.int32)
        number[rows, columns] = np.arange(len(rows))
        away_px = cv2.distanceTransform((~is_known).astype(np.uint8), cv2.DIST_L2, 5)
        trust = ((is_known | unknown) / (1 + np.asarray(away_px))).astype(np.float32)
        return cls(picture, is_known, trust, rows, columns, number)

    def mirrored(self) -> Indices:
        """To begin with: the reflection of each unknown pixel in the border of what is known, or that border."""
        border = nearest(self.known)[1][self.rows, self.columns].astype(np.int32)
        border_rows, border_columns = np.divmod(border, self.known.shape[1])
        return self._if_known(2 * border_rows - self.rows, 2 * border_columns - self.columns, border)

    def refined(self, coarser: _Level, sources: Indices) -> Indices:
        """Return the sources that were found at half the size, twice as large; and the guess made of them."""
        near = self.mirrored()
        parent_rows = np.minimum((self.rows - _PATCH_PX) // 2 + _PATCH_PX, coarser.known.shape[0] - 1)
        parent_columns = np.minimum((self.columns - _PATCH_PX) // 2 + _PATCH_PX, coarser.known.shape[1] - 1)
        parent = coarser.number[parent_rows, parent_columns]
        source_rows, source_columns = np.divmod(sources[parent], coarser.known.shape[1])
        rows = 2 * (source_rows - _PATCH_PX) + _PATCH_PX + (self.rows - _PATCH_PX) % 2
        columns = 2 * (source_columns - _PATCH_PX) + _PATCH_PX + (self.columns - _PATCH_PX) % 2
        found = np.where(parent >= 0, self._if_known(rows, columns, near), near)
        self.vote(found)
        return found

    def searched(self, sources: Indices, random: np.random.Generator) -> Indices:
        """Better sources: those of the neighbours, and some at random around one's own, ever nearer."""
        width = self.known.shape[1]
        span = np.arange(-_PATCH_PX, _PATCH_PX + 1, 2)
        offsets = np.add.outer(span * width, span).ravel()
        own = self.rows.astype(np.intp) * width + self.columns
        is_strange = np.where(self.known, np.float32(0), np.sqrt(_STRANGE))
        pixels = np.dstack([self.picture, is_strange]).view(np.complex128).ravel()  # numpy takes 16 bytes as one
        patches = pixels.take(own[:, None] + offsets)
        patches.view(np.float32)[:, 3::4] = 0
        weights = self.trust.ravel().take(own[:, None] + offsets)
        weights /= weights.sum(1, keepdims=True)

        def cost(which: Indices, source: Indices) -> Floats:
            return _in_threads(cost_of_part, which, source)

        def cost_of_part(which: Indices, source: Indices) -> Floats:
            apart = pixels.take(source[:, None] + offsets).view(np.float32)
            apart -= patches.take(which, 0).view(np.float32)
            apart *= apart
            prices = np.einsum("nkc,nk->n", apart.reshape(len(which), len(offsets), 4), weights.take(which, 0))
            rows, columns = np.divmod(source, width)
            away = np.sqrt((rows - self.rows[which]) ** 2 + (columns - self.columns[which]) ** 2, dtype=np.float32)
            return np.asarray(prices + np.float32(_NEARBY) * away, np.float32)

        sources = sources.copy()
        best = cost(np.arange(len(own), dtype=np.int32), sources)

        def attempt(which: Indices, source: Indices) -> None:
            is_known = self.known.ravel()[source]
            which, source = which[is_known], source[is_known]
            price = cost(which, source)
            is_better = price < best[which]
            sources[which[is_better]], best[which[is_better]] = source[is_better], price[is_better]

        everyone = np.arange(len(own), dtype=np.int32)
        for step in (1, width, -1, -width):
            neighbour = self.number.ravel()[own + step]
            which = everyone[neighbour >= 0]
            attempt(which, np.clip(sources[neighbour[which]] - step, 0, self.known.size - 1).astype(np.int32))
        radius_px = _AROUND_PX
        while radius_px >= 1:
            rows, columns = np.divmod(sources, width)
            rows = rows + random.integers(-radius_px, radius_px + 1, len(rows))
            columns = columns + random.integers(-radius_px, radius_px + 1, len(rows))
            attempt(everyone, self._if_known(rows, columns, sources))
            radius_px //= 2
        return sources

    def vote(self, sources: Indices) -> None:
        """Let each unknown pixel become the mean of what the sources of the pixels around it say of it."""
        width = self.known.shape[1]
        flat, own = self.picture.reshape(-1, 3), self.rows * width + self.columns
        total = np.zeros((len(own), 3), np.float32)
        votes = np.zeros(len(own), np.float32)
        for step in (0, 1, -1, width, -width):
            voter = self.number.ravel()[own + step]
            said = np.clip(sources[voter] - step, 0, self.known.size - 1)
            weight = ((voter >= 0) & self.known.ravel()[said]) * self.trust.ravel()[own + step]
            total += flat[said] * weight[:, None]
            votes += weight
        flat[own] = total / votes[:, None]

    def join(self, sources: Indices) -> None:
        """Take away the seam.

        What the known pixels at the border differ by from what would be said of them is spread smoothly over the
        unknown ones (as Pérez et al., Poisson Image Editing, 2003; here by push-pull).
        """
        width = self.known.shape[1]
        flat, own = self.picture.reshape(-1, 3), self.rows * width + self.columns
        total = np.zeros((self.known.size, 3), np.float32)
        votes = np.zeros(self.known.size, np.float32)
        for step in (1, -1, width, -width):
            border, said = own + step, np.clip(sources + step, 0, self.known.size - 1)
            is_seam = self.known.ravel()[border] & self.known.ravel()[said]
            np.add.at(total, border[is_seam], flat[border[is_seam]] - flat[said[is_seam]])
            np.add.at(votes, border[is_seam], 1)
        is_seam = (votes > 0).reshape(self.known.shape)
        total /= np.maximum(votes, 1)[:, None]
        jump = smooth(total.reshape(self.picture.shape), is_seam)
        flat[own] += jump.reshape(-1, 3)[own]

    def _if_known(self, rows: npt.NDArray[Any], columns: npt.NDArray[Any], otherwise: Indices) -> Indices:
        height, width = self.known.shape
        is_inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        place = np.where(is_inside, rows * width + columns, 0).astype(np.int32)
        return np.where(is_inside & self.known.ravel()[place], place, otherwise)
