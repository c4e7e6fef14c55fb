"""Layers with seeded random weights, appended to an ONNX graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from depthface_standins.insightface.writer import GraphWriter

__all__ = ["Layers"]

_RELU_GAIN = 2.0  # variance that a ReLU takes away (He et al., 2015)


class Layers:
    """Appends layers with random weights to a graph. Values are named by strings, shapes are `(N, C, H, W)`."""

    def __init__(self, seed: int) -> None:
        self.graph = GraphWriter()
        self._rng = np.random.default_rng(seed)
        self._count = 0

    def weights(self, *shape: int, variance: float) -> npt.NDArray[np.float32]:
        """Uniform, mean 0: normally distributed ones take three times as long."""
        values = self._rng.random(shape, dtype=np.float32)
        values -= np.float32(0.5)
        values *= np.float32(np.sqrt(12 * variance))
        return values

    def constant(self, values: npt.ArrayLike) -> str:
        """Add a tensor of the graph's own and return its name."""
        self._count += 1
        return self.graph.constant(f"param_{self._count}", values)

    def conv(  # noqa: PLR0913  most by keyword
        self,
        x: str,
        channels: tuple[int, int],
        kernel: int = 3,
        stride: int = 1,
        *,
        pad: int | None = None,
        groups: int = 1,
        gain: float = _RELU_GAIN,
        bias: npt.ArrayLike | None = 0.0,
        contrast: bool = False,
        name: str = "",
    ) -> str:
        """Add a convolution of `channels` in and out; padded to keep the size unless `pad` says.

        Args:
            gain: variance of what comes out over the mean square of what goes in.
            bias: None for none.
            contrast: whether an even input gives 0.
        """
        per_group, out = channels[0] // groups, channels[1]
        weight = self.weights(out, per_group, kernel, kernel, variance=gain / (per_group * kernel**2))
        if contrast:
            weight -= weight.mean(axis=(2, 3), keepdims=True)
        inputs = [x, self.graph.constant(f"{name}.weight", weight) if name else self.constant(weight)]
        if bias is not None:
            values = np.broadcast_to(np.asarray(bias, np.float32), (out,))
            inputs.append(self.graph.constant(f"{name}.bias", values) if name else self.constant(values))
        edge = kernel // 2 if pad is None else pad
        return self.graph.node(
            "Conv",
            inputs,
            dilations=[1, 1],
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[edge] * 4,
            strides=[stride, stride],
        )

    def relu(self, x: str) -> str:
        """max(x, 0)."""
        return self.graph.node("Relu", [x])

    def prelu(self, x: str, channels: int) -> str:
        """Return a ReLU that lets a quarter of what is below 0 through."""
        return self.graph.node("PRelu", [x, self.constant(np.full((channels, 1, 1), 0.25))])

    def norm(self, x: str, channels: int, output: str = "") -> str:
        """Return a batch normalisation that changes nothing."""
        parameters = [self.constant(np.full(channels, value)) for value in (1.0, 0.0, 0.0, 1.0)]
        return self.graph.node("BatchNormalization", [x, *parameters], output, epsilon=1e-5, momentum=0.9)

    def add(self, left: str, right: str) -> str:
        """Return the sum of two values."""
        return self.graph.node("Add", [left, right])

    def fully(self, x: str, sizes: tuple[int, int], output: str = "", *, gain: float = 1.0, bias: float = 0.0) -> str:
        """Return a fully connected layer of `sizes` in and out."""
        weight = self.constant(self.weights(sizes[1], sizes[0], variance=gain / sizes[0]))
        inputs = [x, weight, self.constant(np.full(sizes[1], bias))]
        return self.graph.node("Gemm", inputs, output, alpha=1.0, beta=1.0, transB=1)

    def separable(self, x: str, channels: tuple[int, int], stride: int = 1) -> str:
        """Add a depthwise and a pointwise convolution, each with ReLU: the brick of MobileNet."""
        x = self.relu(self.conv(x, (channels[0], channels[0]), stride=stride, groups=channels[0]))
        return self.relu(self.conv(x, channels, kernel=1))
