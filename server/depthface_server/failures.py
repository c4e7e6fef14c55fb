"""Whose fault it is that a network did not run, told from what its runtime says.

OpenVINO raises one class for everything, and ONNX Runtime's classes do not part the two either, so it is the text that
tells. What it does not tell is the server's fault: who sent a sound request may send it again.
"""

from __future__ import annotations

import re

__all__ = ["is_of_memory", "is_of_shapes"]

# C++'s `std::bad_alloc` (pybind11 makes it a MemoryError, if nobody has wrapped it), ONNX Runtime's bfc_arena.cc,
# OpenVINO's cpu_memory.cpp, oneDNN's `out_of_memory`, Xbyak where there is no room for the code that it writes ("can't
# alloc", "can't protect"), CUDA, and the system where it can map nothing and start no thread.
_MEMORY = re.compile(
    r"bad.?alloc|(failed to|can(no|')t|could not) (alloc|protect|map)|(out.of|not enough|insufficient).memory"
    r"|temporarily unavailable",
    re.IGNORECASE,
)
_SHAPES = re.compile(r"shape|dim(ension)?s?\b|\brank\b|broadcast", re.IGNORECASE)
_DEVICE = re.compile(r"\b(CU[A-Z_]+|NCCL) failure")
"""ONNX Runtime's words for a failed call of CUDA; a host, a file and code follow, of any words (cuda_call.cc)."""

_NODE = re.compile(r"\w+ node\b|'[\w/.:-]*'")
"""A node's kind and name, whatever has failed in it: "Reshape node with name 'node_Reshape_12'"."""


def is_of_memory(error: Exception) -> bool:
    """Whether the runtime had not the memory, which the next request may find."""
    return isinstance(error, MemoryError) or bool(_MEMORY.search(str(error)))


def is_of_shapes(error: Exception) -> bool:
    """Whether the tensors of the request have shapes that the network cannot run on."""
    text = str(error)
    return not is_of_memory(error) and not _DEVICE.search(text) and bool(_SHAPES.search(_NODE.sub("", text)))
