"""Prints what to install for TensorRT's Python API on the TensorRT libraries that this image has, without any others.

An engine loads only in the version that built it, so the version is never chosen here: it is the build argument
TENSORRT_VERSION, or what NVIDIA's image says of itself in its environment (TENSORRT_VERSION, TRT_VERSION), or what the
package manager knows of libnvinfer. To be installed with `--no-deps`: the dependency left out is a second copy of the
libraries. Stands alone, for the image's own Python.
"""

import os
import re
import subprocess
import sys

_SOURCES = ("TENSORRT_VERSION", "TRT_VERSION", "NV_TENSORRT_VERSION")


def version() -> str:
    """The version in PyPI's form, such as 11.4.0.106; exits with a sentence if nothing tells it."""
    found = [os.environ[name] for name in _SOURCES if os.environ.get(name)] or _packaged()
    if not found:
        sys.exit(
            "This image does not say which TensorRT it has. Look it up in NVIDIA's release notes and build with "
            "--build-arg TENSORRT_VERSION=…"
        )
    return re.split(r"[-+]", found[0])[0]  # 10.16.1.11-1+cuda13.2


def cuda_major() -> str:
    """The major version of CUDA, which is part of the packages' names."""
    found = os.environ.get("CUDA_VERSION", "").partition(".")[0]
    return found or sys.exit("CUDA_VERSION is not set: this is not an image of NVIDIA's.")


def _packaged() -> list[str]:
    command = ["dpkg-query", "--show", "--showformat", "${Version}\n", "libnvinfer[0-9]*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    for package in ("tensorrt-cu{}", "tensorrt-cu{}-bindings"):
        print(f"{package.format(cuda_major())}=={version()}")
