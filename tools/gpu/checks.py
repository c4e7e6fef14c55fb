"""Before anything is measured: what the machine is, and whether what was brought works on it."""

from __future__ import annotations

import ctypes
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from setting import Setting

from depthface.errors import DepthfaceError
from depthface_bench import machine, setup
from depthface_bench.variants import CUDA
from depthface_server.installation import Installation

__all__ = ["check"]


def check(setting: Setting) -> None:
    """Put down the facts; each that does not hold is a failure of its own."""
    here = machine.this_machine()
    setting.fact("machine", here.title)
    setting.fact("system", here.system)
    setting.fact("revision", machine.revision())
    names = ("onnxruntime-gpu", "nvidia-pytriton", "numpy", "transformers", "onnxscript", "opencv-python-headless")
    setting.fact("versions", ", ".join(f"{name} {version(name)}" for name in names))
    cuda = f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
    setting.fact("PyTorch", f"{torch.__version__}, {cuda}")
    with setting.part("the GPU in PyTorch"):
        if setting.on_gpu:
            product = torch.ones(256, 256, device="cuda") @ torch.ones(256, 256, device="cuda")
            setting.fact("GPU", f"{torch.cuda.get_device_name()}: 256 ones times ones are {float(product[0, 0]):g}")
            free, total = torch.cuda.mem_get_info()
            setting.fact("GPU memory, GiB", f"{free / 2**30:.0f} free of {total / 2**30:.0f}")
        else:
            setting.fact("GPU", f"none is used: a rehearsal (PyTorch sees one: {torch.cuda.is_available()})")
    with setting.part("ONNX Runtime's CUDA library"):
        onnxruntime.preload_dlls()
        library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
        # It asks its host for this one first (provider_bridge_ort.cc).
        ctypes.CDLL(str(library.with_name("libonnxruntime_providers_shared.so")), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(library))
        setting.fact("ONNX Runtime's CUDA library", "loads, with all the libraries that it needs")
    with setting.part("ONNX Runtime's CUDA provider"):
        setting.fact("ONNX Runtime's providers", onnxruntime.get_available_providers())
        setting.fact(f"{CUDA} on a graph of one node", _run_one_node())
    with setting.part("the embedded Triton"):
        found = Installation.find()
        setting.fact("Triton", f"from {found.program.parts[-4]}, stub for this Python, libpython found")
    with setting.part("perf_analyzer"):
        setting.fact("perf_analyzer", setup.find().version)


def _run_one_node() -> str:
    """Compute 2 + 3 on CUDA; raises `DepthfaceError` where that runs on the CPU instead."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["c"])],
        "sum",
        [value("a", TensorProto.FLOAT, [1]), value("b", TensorProto.FLOAT, [1])],
        [value("c", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CUDA, "CPUExecutionProvider"])
    if CUDA not in session.get_providers():
        raise DepthfaceError(f"{CUDA} did not start; the log says why.")
    (total,) = session.run(None, {"a": np.array([2], np.float32), "b": np.array([3], np.float32)})
    return f"2 + 3 = {float(total[0]):g}"
