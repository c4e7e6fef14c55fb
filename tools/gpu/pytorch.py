"""Depth networks in PyTorch: as they are published, and in the form that is exported."""

from __future__ import annotations

from collections.abc import Callable

import torch
from setting import Setting
from torch import nn
from ways import Arithmetic, Way, parity, pixels_of, row, source_of, text_of

from depthface.families.depth_anything_v2 import network as depth_network
from depthface.spec import ModelCard
from depthface_bench.repositories import depth_card
from depthface_export import validate
from depthface_standins.depth_anything_v2 import random_model

__all__ = ["exported_form", "in_torch"]


def in_torch(setting: Setting, card: ModelCard, arithmetic: Arithmetic, batches: tuple[int, ...]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic.tf32
    size = setting.scale.grid_px
    inputs = {batch: torch.from_numpy(pixels_of(batch, size)).to(setting.device) for batch in batches}

    def measure(
        module: nn.Module, runtime: str, run_of: Callable[[nn.Module, torch.Tensor], Callable[[], None]]
    ) -> None:
        for batch, pixels in inputs.items():
            row(setting, Way(card, runtime, arithmetic), batch, text_of(size), run_of(module, pixels))

    with setting.part(f"{card.title}, PyTorch, {arithmetic.name}"), torch.inference_mode():
        module = _published(setting, card, arithmetic)
        measure(module, "PyTorch, eager", _eager)
        if card == depth_card() and (setting.on_gpu or arithmetic.precision == "fp32"):  # a CPU takes a minute in fp16
            way = Way(card, "PyTorch, eager", arithmetic)
            parity(setting, way, source_of(card, arithmetic.precision), _by_module(module))
        if setting.on_gpu:
            with setting.part(f"{card.title}, PyTorch, CUDA graph, {arithmetic.name}"):
                measure(module, "PyTorch, CUDA graph", _graph)
        del module
    with setting.part(f"{card.title}, PyTorch, fused attention, {arithmetic.name}"), torch.inference_mode():
        module = exported_form(setting, card, arithmetic)
        measure(module, "PyTorch, the exported form, fused attention", _graph if setting.on_gpu else _eager)


def _eager(module: nn.Module, pixels: torch.Tensor) -> Callable[[], None]:
    def run() -> None:
        with pixels.device:  # the form that is exported makes tensors on the default one
            module(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize()

    return run


def _graph(module: nn.Module, pixels: torch.Tensor) -> Callable[[], None]:
    """Record the module's kernels once, and have them replayed (docs.pytorch.org, CUDA graphs)."""
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside), pixels.device:
        for _ in range(3):
            module(pixels)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pixels.device:
        module(pixels)

    def run() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return run


def _by_module(module: nn.Module) -> validate.Run:
    device = next(module.parameters()).device
    return lambda inputs: {"depth": module(torch.from_numpy(inputs["pixels"]).to(device)).cpu().numpy()}


class Published(nn.Module):
    """`transformers`' model as it is published, with the normalisation of its processor before it."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, card: ModelCard, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = random_model(card).to(dtype)
        self.register_buffer("mean", 255 * torch.tensor(depth_network.MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(depth_network.STD).reshape(1, 3, 1, 1))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """`(B, h, w, 3) uint8` to `(B, h, w) float32`."""
        x = (pixels.permute(0, 3, 1, 2).float() - self.mean) / self.std
        depth: torch.Tensor = self.model(x.to(self.model.dtype)).predicted_depth
        return depth.float()


def _published(setting: Setting, card: ModelCard, arithmetic: Arithmetic) -> nn.Module:
    """Return it on the device."""
    dtype = torch.float16 if arithmetic.precision == "fp16" else torch.float32
    return Published(card, dtype).eval().requires_grad_(False).to(setting.device)


def exported_form(setting: Setting, card: ModelCard, arithmetic: Arithmetic) -> nn.Module:
    """The module that is exported, with PyTorch's own attention in one kernel in place of three operators."""
    module = source_of(card, arithmetic.precision).model
    for layer in module.layers:
        layer.attention.config._attn_implementation = "sdpa"
    return module.to(setting.device)  # type: ignore[no-any-return]
