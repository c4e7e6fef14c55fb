"""What the device could do at most, what share of it the networks reach, and what would have to be quicker next."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from networks import AIM_BATCH, Bound, session_of
from pytorch import exported_form
from setting import Setting, median_ms
from torch.profiler import ProfilerActivity, profile
from ways import ARITHMETIC, Arithmetic, pixels_of, text_of

from depthface.families import card_named
from depthface_bench import limits
from depthface_bench.repositories import DEPTH, DEPTH_NETWORK, depth_card

__all__ = ["bottleneck", "share_of_peak"]

_SHOWN = 20
_COPIED_BYTES = 2**30


def share_of_peak(setting: Setting) -> None:
    """The device's rate at matrix products and copies; then the networks' best rates, as shares of the former."""
    peaks: dict[str, float] = {}
    for arithmetic in ARITHMETIC:
        with setting.part(f"matrix products in {arithmetic.name}"):
            peaks[arithmetic.name] = _products_tflop_s(setting, arithmetic)
            setting.fact(
                f"matrix product of {setting.scale.square}², {arithmetic.name}, TFLOP/s",
                round(peaks[arithmetic.name], 3),
            )
    with setting.part("a copy in the device's memory"):
        data = torch.ones(_COPIED_BYTES if setting.on_gpu else 2**26, dtype=torch.uint8, device=setting.device)
        into = torch.empty_like(data)
        ms = median_ms(lambda: _waited(into.copy_(data)), setting.scale.seconds)
        setting.fact("copy in the device's memory, read and written, GB/s", round(2 * data.numel() / 1e6 / ms))
    for size in ("small", *setting.scale.larger):
        card = card_named(DEPTH.replace("small", size))
        with setting.part(f"operations of {card.title}"):
            path = setting.network("fp32", DEPTH_NETWORK) if size == "small" else setting.larger(size)
            gflop, _ = limits.counted(path, {"pixels": pixels_of(1, setting.scale.grid_px)}, ("depth",))
            setting.fact(f"{card.title} at {text_of(setting.scale.grid_px)}, GFLOP a photo", round(gflop, 1))
            _shares(setting, card.title, gflop, peaks)


def bottleneck(setting: Setting) -> None:
    """Which kernels the time goes to; what ONNX Runtime leaves to the CPU; who waits for whom in the server."""
    batch = AIM_BATCH if setting.on_gpu else 1
    pixels = pixels_of(batch, setting.scale.grid_px)
    with setting.part("kernels of ONNX Runtime"):
        session = session_of(setting, setting.network("fp16", DEPTH_NETWORK), ARITHMETIC[0])
        _kernels(setting, "ONNX Runtime", Bound(session, {"pixels": pixels}, setting))
    with setting.part("kernels of the exported form in PyTorch"), torch.inference_mode():
        module, given = exported_form(setting, depth_card(), ARITHMETIC[0]), torch.from_numpy(pixels).to(setting.device)
        with given.device:
            _kernels(setting, "the exported form in PyTorch", lambda: _waited(module(given)))
    with setting.part("nodes of ONNX Runtime"):
        _nodes(setting)
    ends = [one for one in setting.book.records() if one["kind"] == "row" and "of_gpu_bound" in one]
    for table in dict.fromkeys(row["table"] for row in ends):
        best = max((row for row in ends if row["table"] == table), key=lambda row: float(row["photos_a_second"]))
        setting.fact(table, _said_of(best))


def _said_of(row: dict[str, Any]) -> str:
    """Who is nearest to its limit at the best load."""
    of = {
        "the GPU": row["of_gpu_bound"],
        "the processors' decoding and encoding": row["of_cpu_bound"],
        "the processors with all that runs on them": row["processors_busy_percent"] / 100,
    }
    nearest = max(of, key=lambda name: float(of[name]))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in of.items())
    what = (
        f"nearest to its limit is {nearest}"
        if of[nearest] >= 0.6
        else "none is near its limit: requests wait for one another"
    )
    return (
        f"at {row['at_once']} at once, {row['how']}: {what} ({shares}, GPU busy {row.get('gpu_busy_percent', '?')} %)"
    )


def _products_tflop_s(setting: Setting, arithmetic: Arithmetic) -> float:
    torch.backends.cuda.matmul.allow_tf32 = arithmetic.tf32
    dtype = torch.float16 if arithmetic.precision == "fp16" else torch.float32
    a, b = (torch.randn(setting.scale.square, setting.scale.square, device=setting.device).to(dtype) for _ in range(2))
    ms = median_ms(lambda: _waited(torch.mm(a, b)), setting.scale.seconds)
    return 2 * setting.scale.square**3 / 1e9 / ms


def _waited(result: torch.Tensor) -> torch.Tensor:
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def _shares(setting: Setting, title: str, gflop: float, peaks: dict[str, float]) -> None:
    size = f"{text_of(setting.scale.grid_px)}"
    rows = [
        row
        for row in setting.book.records()
        if row["kind"] == "row" and row.get("model") == title and row.get("what") == size
    ]
    for runtime, name in dict.fromkeys((row["runtime"], row["arithmetic"]) for row in rows):
        own = [row for row in rows if (row["runtime"], row["arithmetic"]) == (runtime, name)]
        best = max(own, key=lambda row: float(row["a_second"]))
        reached = best["a_second"] * gflop / 1000
        setting.row(
            "Share of the matrix peak, at the best batch",
            model=title,
            runtime=runtime,
            arithmetic=name,
            batch=best["batch"],
            tflop_s=round(reached, 3),
            share=round(reached / peaks[name], 3) if name in peaks else "",
        )


def _kernels(setting: Setting, what: str, run: Callable[[], object]) -> None:
    """Kineto sees the kernels of the whole process, ONNX Runtime's too."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_gpu else [])]
    for _ in range(2):
        run()
    with profile(activities=kinds) as seen:
        run()
    times = Counter[str]()
    for event in seen.key_averages():
        own = event.self_device_time_total if setting.on_gpu else event.self_cpu_time_total
        times[str(event.key)] += own
    for name, time_us in times.most_common(_SHOWN):
        share = round(time_us / max(1, times.total()), 3)
        setting.row(f"Kernels, {what}, fp16", kernel=name[:90], ms=round(time_us / 1000, 3), share=share)


def _nodes(setting: Setting) -> None:
    """Copies between the two and nodes on the CPU are time that the GPU waits."""
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(setting.work / "profile")
    session = session_of(setting, setting.network("fp16", DEPTH_NETWORK), ARITHMETIC[0], options=options)
    run = Bound(session, {"pixels": pixels_of(1, setting.scale.grid_px)}, setting)
    run()
    events = json.loads(Path(session.end_profiling()).read_text())
    nodes = [event["args"] for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    for provider, operators in _by_provider(nodes).items():
        named = ", ".join(f"{count} {operator}" for operator, count in operators.most_common(8))
        setting.fact(f"two runs of Small's network, nodes on {provider}", f"{operators.total()}: {named}")


def _by_provider(nodes: Iterable[dict[str, Any]]) -> dict[str, Counter[str]]:
    found: dict[str, Counter[str]] = {}
    for node in nodes:
        found.setdefault(node["provider"], Counter())[node["op_name"]] += 1
    return found
