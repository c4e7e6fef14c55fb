"""What every side of depthface shares: facts and pure array maths."""

from __future__ import annotations

__all__ = ["__version__"]

__version__: str
"""The version of the installed distribution, looked up at first use: that costs more than the rest of this package."""


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib.metadata import version

        return version("depthface")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
