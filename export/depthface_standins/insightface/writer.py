"""A small writer of ONNX graphs whose channels have names, for networks with weights set by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

__all__ = ["GraphWriter", "Row", "Tensor"]

# What PyTorch 1.6 to 1.9 wrote, with which the published InsightFace files were made.
OPSET = 11
IR_VERSION = 6


@dataclass(frozen=True)
class Tensor:
    """A value in the graph, `(N, C, H, W) float32`, and what its channels are called."""

    name: str
    channels: tuple[str, ...]


Row = Mapping[str, float]
"""One output channel as a weighted sum of named input channels; the name `""` stands for the constant 1."""


class GraphWriter:
    """Appends nodes; names them `<Op>_<number>`, as PyTorch did.

    InsightFace takes a graph with both `Sub…` and `Mul…` among its first eight node names for one that normalises
    itself, and then feeds 0…255; the graphs written here begin otherwise.
    """

    def __init__(self) -> None:
        # Filled in place: the helpers of onnx copy a model several times, and one of them here has half a gigabyte.
        self._model = onnx.ModelProto(ir_version=IR_VERSION, producer_name="depthface")
        self._model.opset_import.add(domain="", version=OPSET)
        self._constants: set[str] = set()

    def node(self, op: str, inputs: Sequence[str], output: str = "", *, called: str = "", **attributes: object) -> str:
        """Append a node of one output, `called` so if that is given, and return the output's name."""
        nodes = self._model.graph.node
        output = output or f"{op.lower()}_{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [output], name=called or f"{op}_{len(nodes)}", **attributes))
        return output

    def constant(self, name: str, value: npt.ArrayLike, dtype: type = np.float32) -> str:
        """Add an initializer, unless one of that name is there, and return its name."""
        if name not in self._constants:
            self._constants.add(name)
            array: npt.NDArray[np.generic] = np.asarray(value, dtype)
            self._model.graph.initializer.add(
                name=name,
                dims=array.shape,
                data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                raw_data=array.tobytes(),
            )
        return name

    def conv(  # noqa: PLR0913  most by keyword
        self,
        source: Tensor,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        channels: Sequence[str],
        *,
        name: str = "",
        stride: int = 1,
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> Tensor:
        """Add a convolution: `weight` `(out, in, kh, kw)`, `bias` `(out,)`; pads are top, left, bottom, right."""
        stem = name or f"conv_{len(self._model.graph.node)}"
        inputs = [source.name, self.constant(f"{stem}.weight", weight), self.constant(f"{stem}.bias", bias)]
        output = self.node(
            "Conv",
            inputs,
            kernel_shape=list(weight.shape[2:]),
            strides=[stride, stride],
            pads=list(pads),
            dilations=[1, 1],
            group=1,
        )
        return Tensor(output, tuple(channels))

    def linear(self, source: Tensor, rows: Mapping[str, Row], *, name: str = "", kernel: int = 1) -> Tensor:
        """Every output channel a weighted sum of input channels at the same place: a convolution.

        Args:
            kernel: size of the kernel, of which only the middle is not 0.
        """
        weight = np.zeros((len(rows), len(source.channels), kernel, kernel), np.float32)
        bias = np.zeros(len(rows), np.float32)
        for index, row in enumerate(rows.values()):
            for channel, factor in row.items():
                if channel:
                    weight[index, source.channels.index(channel), kernel // 2, kernel // 2] += factor
                else:
                    bias[index] += factor
        pad = kernel // 2
        return self.conv(source, weight, bias, tuple(rows), name=name, pads=(pad, pad, pad, pad))

    def concat(self, *sources: Tensor) -> Tensor:
        """Return the channels of all sources, one after the other."""
        channels = tuple(channel for source in sources for channel in source.channels)
        return Tensor(self.node("Concat", [source.name for source in sources], axis=1), channels)

    def relu(self, source: Tensor) -> Tensor:
        """max(x, 0)."""
        return Tensor(self.node("Relu", [source.name]), source.channels)

    def at_least(self, source: Tensor, floor: float) -> Tensor:
        """max(x, floor)."""
        return Tensor(self.node("Max", [source.name, self.constant(f"floor_{floor:g}", floor)]), source.channels)

    def binary(self, op: str, left: Tensor, right: Tensor) -> Tensor:
        """`Add`, `Mul` or `Div`, channel by channel; the channels keep the left one's names."""
        return Tensor(self.node(op, [left.name, right.name]), left.channels)

    def upsample_like(self, source: str, like: str) -> str:
        """`source` at the height and width of `like`, nearest: the very nodes PyTorch wrote for F.interpolate."""
        empty = self.constant("empty", [])
        axes = []
        for axis in (2, 3):
            length = self.node("Gather", [self.node("Shape", [like]), self.constant(f"axis_{axis}", axis, np.int64)])
            axes.append(self.node("Unsqueeze", [length], axes=[0]))
        bounds = [self.constant(f"bound_{value}", [value], np.int64) for value in (0, 2)]
        head = self.node("Slice", [self.node("Shape", [source]), *bounds, bounds[0]])
        return self.node(
            "Resize",
            [source, empty, empty, self.node("Concat", [head, *axes], axis=0)],
            coordinate_transformation_mode="asymmetric",
            cubic_coeff_a=-0.75,
            mode="nearest",
            nearest_mode="floor",
        )

    def scrfd_output(self, source: str, width: int, output: str, *, sigmoid: bool) -> None:
        """Add the end of an SCRFD head: from `(1, 2·width, h, w)` to `(h·w·2, width)`, in the published nodes."""
        anchors_last = self.node("Transpose", [source], perm=[2, 3, 0, 1])
        shape = self.constant(f"rows_of_{width}", [-1, width], np.int64)
        flat = self.node("Reshape", [anchors_last, shape], "" if sigmoid else output)
        if sigmoid:
            self.node("Sigmoid", [flat], output)

    def model(
        self, name: str, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> onnx.ModelProto:
        """Return the finished model; all inputs and outputs are float32."""
        graph = self._model.graph
        graph.name = name
        for infos, shapes in ((graph.input, inputs), (graph.output, outputs)):
            infos.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, list(s)) for n, s in shapes.items())
        return self._model
