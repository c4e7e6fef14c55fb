"""What runtimes were seen to say, and whose fault it is."""

from __future__ import annotations

import pytest

from depthface_server.failures import is_of_memory, is_of_shapes

MEMORY = [
    MemoryError("std::bad_alloc"),
    RuntimeError("Exception from src/core/src/runtime/allocator.cpp:79:\nstd::bad_alloc"),
    RuntimeError("[CPU] Transpose node with name 'node_permute' Check 'ptr' failed at cpu_memory.cpp:257:\nFailed to "
                 "allocate 103036416 bytes of memory"),
    RuntimeError("Exception from node.cpp:823:\n[CPU] Subgraph node with name 'node_Reshape_5' can't alloc"),
    RuntimeError("[CPU] Convolution node with name 'node_Conv_620' can't protect"),
    RuntimeError("could not create a primitive: out_of_memory"),
    RuntimeError("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8388608"),
    RuntimeError("CUDA failure 2: out of memory; GPU=0; dims={1,3}"),
    RuntimeError("Resource temporarily unavailable"),
    RuntimeError("mmap: Cannot allocate memory"),
]  # fmt: skip
SHAPES = [
    "[CPU] Convolution node with name 'node_Conv_620' Check 'dim_stride.has_value()' failed at desc.cpp:164:\n"
    "CpuBlockedMemoryDesc::getCurrentMemSizeImp overflow while multiplying dim and stride",
    "ParameterMismatch: Can not clone with new dims. Descriptor's shape: {0 - ?, 3} is incompatible with provided "
    "dimensions: {1, 4}.",
    "[CPU] Multiply node with name 'node_mul_1548' Check 'input_shape[j] == 1' failed at eltwise.cpp:52:\n"
    "Eltwise shape infer input shapes dim index: 0 mismatch",
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running MatMul node. Name:'node_matmul_3' "
    "Status Message: matmul_helper.h:144 Compute right operand cannot broadcast on dim 0",
    "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: scale Got: 4 Expected: 2",
]
UNKNOWN = [
    "[CPU] Reshape node with name 'node_Reshape_620' could not execute a primitive",
    "Inference request was interrupted",
    "[ONNXRuntimeError] : 1 : FAIL : Non-zero status code returned while running Conv node. Name:'node_Conv_620' "
    "Status Message: CUDNN failure 5000: CUDNN_STATUS_EXECUTION_FAILED ; GPU=0 ; hostname=worker-rank-0 ; "
    "file=/onnxruntime_src/core/providers/cuda/nn/conv.cc ; line=455 ; expr=cudnnSetTensorNdDescriptor(x, dims);",
    "CUDA failure 700: an illegal memory access was encountered ; GPU=0 ; hostname=rank ; expr=Broadcast(dims);",
    "CUBLAS failure 14: CUBLAS_STATUS_INTERNAL_ERROR ; GPU=0 ; hostname=rank ; expr=cublasGemmStridedBatched(shape);",
    "",
]


@pytest.mark.parametrize("error", MEMORY, ids=str)
def test_a_lack_of_memory(error):
    assert (is_of_memory(error), is_of_shapes(error)) == (True, False)


@pytest.mark.parametrize("text", SHAPES)
def test_shapes_that_a_network_cannot_run_on(text):
    assert (is_of_memory(RuntimeError(text)), is_of_shapes(RuntimeError(text))) == (False, True)


@pytest.mark.parametrize("text", UNKNOWN)
def test_anything_else_is_nobodys_request(text):
    assert (is_of_memory(RuntimeError(text)), is_of_shapes(RuntimeError(text))) == (False, False)
