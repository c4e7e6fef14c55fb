"""OpenVINO, kept from reporting home.

Its import sends usage statistics (openvino_telemetry, backend_ga4.py), from a process that it forks off; without that
package it does without. Import it from here.
"""

from __future__ import annotations

import sys

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # "not installed" (docs.python.org, sys.modules)

import openvino  # noqa: E402

__all__ = ["openvino"]
