"""What is measured of a network, whatever computes it: its time, and how far it is from its reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from setting import Setting, median_ms

import depthface_standins
from depthface.contract import Precision
from depthface.families import module_of
from depthface.spec import ModelCard, Source
from depthface.weights import Random
from depthface_export import validate

__all__ = ["ARITHMETIC", "Arithmetic", "Way", "parity", "pixels_of", "row", "source_of", "text_of"]


@dataclass(frozen=True)
class Arithmetic:
    """A file's precision; and whether products of fp32 may round to TF32, as ONNX Runtime has them do by itself."""

    name: str
    precision: Precision
    tf32: bool = False


@dataclass(frozen=True)
class Way:
    """What computes a network, and how."""

    card: ModelCard
    runtime: str
    arithmetic: Arithmetic


ARITHMETIC = (Arithmetic("fp16", "fp16"), Arithmetic("fp32", "fp32"), Arithmetic("tf32", "fp32", tf32=True))


def row(setting: Setting, way: Way, batch: int, what: str, run: Callable[[], object]) -> float:
    """Measure, put down and return the milliseconds a photo."""
    run()
    ms = median_ms(run, setting.scale.seconds) / batch
    setting.row(
        "Network alone",
        model=way.card.title,
        runtime=way.runtime,
        arithmetic=way.arithmetic.name,
        what=what,
        batch=batch,
        ms_a_photo=round(ms, 4),
        a_second=round(1000 / ms, 1),
    )
    return ms


def source_of(card: ModelCard, precision: Precision) -> Source:
    """Return the card's network with random weights; its reference computes the same photographs once."""
    found: Source
    (found,) = depthface_standins.module_of(card).load(card, Random(), precision).values()

    def reference(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        key = (card.name, pixels.shape, pixels.tobytes())
        if key not in _REFERENCES:
            _REFERENCES[key] = found.reference(pixels)
        return _REFERENCES[key]

    return replace(found, reference=reference)


_REFERENCES: dict[tuple[str, tuple[int, ...], bytes], npt.NDArray[np.float32]] = {}
"""By card, shape and photographs: the weights of a card are the same in every precision."""


def pixels_of(batch: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, *size, 3), np.uint8)


def parity(setting: Setting, way: Way, source: Source, run: validate.Run) -> None:
    """Put down the worst value of each metric of the card, on the photographs that an export is proven on."""
    worst: dict[str, float] = {}
    samples = validate.samples(way.card, precision=way.arithmetic.precision)
    for _, measured in module_of(way.card, "parity").measurements(source, run, samples):
        for metric, value in measured.items():
            worst[metric] = float(np.maximum(worst.get(metric, 0.0), value))  # not max(): NaN has to stay
    for metric, value in worst.items():
        most = way.card.tolerances[way.arithmetic.precision][metric]
        setting.row(
            "Parity, in the card's units",
            model=way.card.title,
            of=way.runtime,
            arithmetic=way.arithmetic.name,
            metric=metric,
            worst=value,
            tolerance=most,
            within=bool(value <= most),
        )


def text_of(size: tuple[int, int]) -> str:
    """Height × width."""
    return f"{size[0]}×{size[1]}"
