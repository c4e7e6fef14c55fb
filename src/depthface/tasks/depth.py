"""The task `depth`: a photo in, how near each of its pixels is out."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from depthface import colormap
from depthface.asking import Asker, Description, Infer, Steps, bytes_tensor, operation
from depthface.errors import InvalidInput
from depthface.photos import Photo, encoded, probe_picture
from depthface.resample import upsample_bicubic
from depthface.weights import is_meaningful

__all__ = ["NAME", "Depth", "DepthMethods", "Options", "probe"]

NAME = "depth"

_RESULT = ("depth", "size")


@dataclass(frozen=True)
class Options:
    """What a request may ask, as parameters.

    Attributes:
        fast_decode: a JPEG is decoded only to what the grid needs.

    Raises:
        InvalidInput: a value is of another type.
    """

    fast_decode: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.fast_decode, bool):
            raise InvalidInput(f"fast_decode is {self.fast_decode!r:.60}.", "Give true or false.")

    def parameters(self) -> dict[str, bool]:
        """Return the parameters of a request."""
        return {"fast_decode": True} if self.fast_decode else {}


@dataclass(frozen=True, eq=False)
class Depth:
    """A depth map: relative inverse depth, without unit, larger is nearer.

    Attributes:
        array: `(h, w) float32`, read-only, at the network's grid (sides a multiple of 14).
        size: height and width of the upright photo, in pixels.
        weights: what the server says it serves, such as `depth-anything/Depth-Anything-V2-Small-hf@5426e4f…`, or
            `random, seed 0`, which makes the map meaningless.
    """

    array: npt.NDArray[np.float32]
    size: tuple[int, int]
    weights: str

    @property
    def is_meaningful(self) -> bool:
        """False if the server runs on random weights: fine for plumbing and speed, not for looking at."""
        return is_meaningful(self.weights)

    def resized(self) -> npt.NDArray[np.float32]:
        """Return the map at the photo's size, `(H, W) float32`, bicubic as the server's PNGs."""
        return upsample_bicubic(self.array, *self.size)

    def normalized(self) -> npt.NDArray[np.float32]:
        """Return `resized()` brought to 0…1, 1 the nearest; all zero where the depth is constant.

        Raises:
            InvalidInput: the map is not of finite numbers.
        """
        if not np.isfinite(self.array).all():
            raise InvalidInput("The depth map is not of finite numbers.", "Ask for it anew.")
        raised = self.array - self.array.min()  # on the grid, where a large offset costs no digits
        depth = upsample_bicubic(raised / (raised.max() or np.float32(1)), *self.size)
        depth -= depth.min()
        span = depth.max()
        return depth / span if span > 0 else depth

    def png16(self) -> bytes:
        """Return a 16-bit grey PNG of the photo's size, 65535 the nearest; the levels of the server's `png16`, ±1.

        Raises:
            InvalidInput: the map is not of finite numbers.
        """
        levels = (self.normalized() * np.float32(65535)).astype(np.uint16)
        buffer = BytesIO()
        Image.fromarray(levels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def preview(self, name: str = "spectral") -> Image.Image:
        """Return an RGB picture of the photo's size, coloured by one of `depthface.colormap.COLORMAPS`.

        Raises:
            InvalidInput: there is no map of this name, or the depth is not of finite numbers.
        """
        return Image.fromarray(colormap.apply(self.normalized(), name))


class DepthMethods(Asker):
    """What a client asks about depth."""

    @operation
    def depth(
        self,
        photo: Photo,
        *,
        model: str | None = None,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> Steps[Depth]:
        """Return the depth map of a photo, at the network's grid.

        Args:
            photo: a path, the bytes of a file, a PIL picture, or an array `(H, W, 3)` RGB or `(H, W)` grey, of uint8,
                uint16 (white is 65535) or bool (white is True).
            model: None for the one that the server serves; of several, the smallest.
            fast_decode: have a JPEG decoded only to what the grid needs: a photo of 12 megapixels is answered some
                0.1 s sooner, and the map is off by about half a level of 255 on average.
            request_id: what the server's log and an error name the request by; None for one made up.

        Raises:
            InvalidInput: the photo or an option cannot be used.
            ClientError: no answer.
        """
        model, outputs = yield from self._depth(photo, model, _RESULT, Options(fast_decode), request_id)
        description = yield from self._describe(model)
        array = outputs["depth"][0]
        array.setflags(write=False)
        height, width = (int(side) for side in outputs["size"][0])
        return Depth(array=array, size=(height, width), weights=description.parameters.weights)

    @operation
    def depth_png(
        self,
        photo: Photo,
        *,
        bits: int = 16,
        model: str | None = None,
        fast_decode: bool = False,
        request_id: str | None = None,
    ) -> Steps[bytes]:
        """Return a grey PNG of the depth at the photo's size, made by the server; the nearest is white.

        It equals `depth(photo).png16()` to one level, without the work on this side. The options are those of `depth`.

        Args:
            photo: as for `depth`.
            bits: of a grey level, 8 or 16.
            model: as for `depth`.
            fast_decode: as for `depth`.
            request_id: as for `depth`.

        Raises:
            InvalidInput: the photo or an option cannot be used.
            ClientError: no answer.
        """
        if bits not in (8, 16):
            raise InvalidInput(f"bits is {bits!r}.", "There are PNGs of 8 and of 16 bits.")
        output = f"png{bits}"
        _, outputs = yield from self._depth(photo, model, (output,), Options(fast_decode), request_id)
        png: bytes = outputs[output][0, 0]
        return png

    def _depth(
        self, photo: Photo, model: str | None, outputs: tuple[str, ...], options: Options, request_id: str | None
    ) -> Steps[tuple[str, dict[str, npt.NDArray[np.generic]]]]:
        data = yield from self._read(photo)
        model = model or (yield from self._serving(NAME))
        inputs = {"image": bytes_tensor(data)}
        return model, (yield from self._infer(model, inputs, outputs, options.parameters(), request_id))


def probe(description: Description) -> Infer:
    """Return the smallest request that proves that a model answers."""
    return Infer(description.name, {"image": bytes_tensor(encoded(probe_picture()))}, _RESULT)
