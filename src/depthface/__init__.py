"""What every side of depthface shares: facts and pure array maths."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("depthface")
