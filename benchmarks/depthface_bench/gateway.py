"""`make bench-gateway`: what the gateway costs, and what its users gain: three ways side by side, in one run.

`direct` is depthface's own client at Triton's HTTP port; `gateway` the same photo in a form to the contract's route,
by `urllib3`, on which that client stands too; `service` the usual service: the library behind FastAPI, with one worker
(`services.py`). Requests alternate, so that a drift of the machine hits all alike. What the client itself costs
is in all figures.
"""

from __future__ import annotations

import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import urllib3

from depthface.errors import DepthfaceError
from depthface_bench import embeddings, machine, photos, repositories, services
from depthface_bench.figures import of_median, ratio
from depthface_bench.repositories import FACES
from depthface_bench.rounds import Way, in_turn
from depthface_bench.servers import ENDS_WITHIN_S, serving
from depthface_bench.variants import FP32
from depthface_bench.ways import depth_of, posted
from depthface_client import Client

__all__ = ["main"]

_MOST_PERCENT, _MOST_MS = 5.0, 5.0
"""What the gateway may cost: of the throughput, and of the median latency."""

_CLIP_AS_IMMICH_NAMES_IT, _PACK_AS_IMMICH_NAMES_IT = "ViT-B-32__openai", "buffalo_l"

_ROUND_S = 5.0
"""A round of throughput sends all photos so often that it lasts as long, of each way: shorter ones are chance."""

_DEPTH_PX = (1920, 1280)

DIRECT, GATEWAY, SERVICE = "direct", "gateway", "service"

Call = Callable[[bytes], object]


@dataclass(frozen=True)
class _Case:
    """One thing that is asked, by each way; `same` raises `AssertionError` unless two answers are of the same work."""

    name: str
    photos: Sequence[bytes]
    calls: Mapping[str, Call]
    same: Callable[[object, object], None]


@click.command()
@click.option("--rounds", default=20, show_default=True, help="Of throughput, and one more; fewer are chance.")
@click.option("--requests", "count", default=40, show_default=True, help="One after the other, of each way.")
@click.option("--at-once", default=4, show_default=True, help="Requests under way when throughput is measured.")
@click.option("--only", multiple=True, help="Cases whose names begin so.")
@click.option("--service/--no-service", default=True, show_default=True, help="Measure the usual service too.")
@click.option("--work", type=click.Path(file_okay=False, path_type=Path), default=Path("build/bench"))
def main(rounds: int, count: int, at_once: int, only: tuple[str, ...], service: bool, work: Path) -> None:
    """Measure; exit 1 if the gateway costs more than it may."""
    repository = work / "gateway"
    pack = _prepared(work, repository)
    is_good = True
    click.echo(
        f"{machine.this_machine().title}; median of {count} requests, and of {rounds} rounds of {at_once} at once"
    )
    with ExitStack() as stack:
        served = stack.enter_context(serving(repository))
        urls = stack.enter_context(_gateway(served.host))
        client = stack.enter_context(Client(served.host, timeout_s=600))
        for case in _cases(client, urls, pack if service else None, stack):
            if not only or case.name.startswith(only):
                is_good &= _measured(case, rounds, count, at_once)
    if not is_good:
        raise SystemExit(1)


def _prepared(work: Path, repository: Path) -> Path:
    work.mkdir(parents=True, exist_ok=True)
    pack = repositories.write_pack(work)
    repositories.export_depth(repository, FP32)
    repositories.export_faces(pack, repository, FP32)
    repositories.export_embeddings(repository, FP32)
    return pack


@contextmanager
def _gateway(triton: str) -> Iterator[dict[str, str]]:
    """Run `depthface gateway` with the three contracts; yield the address of each."""
    names = ("immich", "immichvr", "faces")
    aliases = f"{_PACK_AS_IMMICH_NAMES_IT}={repositories.PACK}"
    variables = {"FACES_PACK": repositories.PACK, "DEPTHFACE_GATEWAY_ALIASES": aliases}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "depthface", "gateway", *names, "--url", triton, "--port", "0"),
            *("--log-level", "warning"),
        ],
        stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"} | variables,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        urls: dict[str, str] = {}
        while len(urls) < len(names):
            words = process.stdout.readline().split()
            if not words:
                raise DepthfaceError(f"The gateway did not start (exit {process.wait()}); it has said why.")
            urls[words[1]] = words[2]
        yield urls
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(ENDS_WITHIN_S)
        process.stdout.close()


def _cases(client: Client, urls: Mapping[str, str], pack: Path | None, stack: ExitStack) -> Iterator[_Case]:
    """The cases; `stack` ends the usual services, which start only when their case has come."""
    pool = urllib3.PoolManager(maxsize=64, timeout=600, retries=False)

    def post(url: str, part: str, **fields: str) -> Callable[[bytes], urllib3.BaseHTTPResponse]:
        def call(photo: bytes) -> urllib3.BaseHTTPResponse:
            # As browsers and Node do: the photo is a `blob`.
            answer = pool.request("POST", url, fields={part: ("blob", photo, "application/octet-stream"), **fields})
            if answer.status != 200:
                raise DepthfaceError(f"{url} answered {answer.status}: {answer.data[:200]!r}.")
            return answer

        return call

    crowds = [photos.crowd(photos.FACES_A_PHOTO, index) for index in range(3)]
    scenes = [photos.sized(*_DEPTH_PX, index) for index in range(3)]
    depth = post(f"{urls['immichvr']}/api/depth", "image")
    calls: dict[str, Call] = {
        DIRECT: depth_of(client),
        GATEWAY: lambda photo: depth(photo).data,
    }
    if pack is not None:
        of_depth = posted(stack.enter_context(services.serving("depth")).host)
        calls[SERVICE] = lambda photo: of_depth(photo).content
    yield _Case("immichvr /api/depth, 1920×1280", scenes, calls, _same_png)

    entries = {
        "facial-recognition": {
            "detection": {"modelName": _PACK_AS_IMMICH_NAMES_IT, "options": {"minScore": 0.5}},
            "recognition": {"modelName": _PACK_AS_IMMICH_NAMES_IT},
        }
    }
    predict = f"{urls['immich']}/predict"
    faces = post(predict, "image", entries=json.dumps(entries))
    calls = {
        DIRECT: lambda photo: len(client.faces(photo, model=FACES, parts=("embedding",), min_score=0.5, det_size=640)),
        GATEWAY: lambda photo: len(faces(photo).json()["facial-recognition"]),
    }
    if pack is not None:
        of_faces = posted(stack.enter_context(services.serving("faces", pack)).host)
        calls[SERVICE] = lambda photo: len(of_faces(photo).json()["boxes"])
    yield _Case("immich /predict, six faces", crowds, calls, _equal)

    detect = post(f"{urls['faces']}/v1/detect", "image")
    calls = {
        DIRECT: lambda photo: len(client.faces(photo, model=FACES, parts=("crop",))),
        GATEWAY: lambda photo: len(detect(photo).json()["faces"]),
    }
    yield _Case("/v1/detect, six faces", crowds, calls, _equal)

    seen = {"clip": {"visual": {"modelName": _CLIP_AS_IMMICH_NAMES_IT}}}
    clip = post(predict, "image", entries=json.dumps(seen))
    calls = {
        DIRECT: embeddings.asked("image", client),
        GATEWAY: lambda photo: np.array(json.loads(clip(photo).json()["clip"]), np.float32),
    }
    yield _Case("immich /predict, clip visual, 1920×1280", scenes, calls, _same_vector)


def _measured(case: _Case, rounds: int, count: int, at_once: int) -> bool:
    """Print a case's figures, and in brackets where a median lies in 19 of 20 runs; return whether the gateway costs no
    more than it may.
    """
    for photo in case.photos:
        case.same(case.calls[GATEWAY](photo), case.calls[DIRECT](photo))
    ms: dict[str, list[float]] = {name: [] for name in case.calls}
    for index in range(count + 1):
        for name, call in case.calls.items():
            started = time.perf_counter()
            call(case.photos[index % len(case.photos)])
            if index:
                ms[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in ms.items()}
    ways = [Way(name, FP32.name, call) for name, call in case.calls.items()]
    often = math.ceil(1000 * _ROUND_S / (medians[DIRECT] * at_once * len(case.photos)))
    rates = {found.kind: found.images_s for found in in_turn(ways, [*case.photos] * often, (at_once,), rounds)}
    # Of neighbours: what the machine does meanwhile, it does to both.
    more = of_median([a - b for a, b in zip(ms[GATEWAY], ms[DIRECT], strict=True)])
    less = of_median([100 * (1 - a / b) for a, b in zip(rates[GATEWAY], rates[DIRECT], strict=True)])
    is_good = more.median <= _MOST_MS and less.median <= _MOST_PERCENT
    may_be_chance = more.low <= _MOST_MS and less.low <= _MOST_PERCENT
    verdict = "" if is_good else ": TOO MUCH, or chance" if may_be_chance else ": TOO MUCH"
    click.echo(f"{case.name}")
    for name in case.calls:
        click.echo(
            f"  {name:8} p50 {medians[name]:7.1f} ms, {statistics.median(rates[name]):6.2f} images/s "
            f"({min(rates[name]):.2f}–{max(rates[name]):.2f})"
        )
    click.echo(
        f"  the gateway costs {more.median:+.1f} ms ({more.low:+.1f} to {more.high:+.1f}) and {less.median:+.1f} % "
        f"({less.low:+.1f} to {less.high:+.1f}){verdict}"
    )
    if SERVICE in rates:
        gain = ratio(rates[GATEWAY], rates[SERVICE])
        click.echo(f"  the gateway does {gain.text(2)} times what the usual service does")
    return is_good


def _equal(a: object, b: object) -> None:
    assert a == b == photos.FACES_A_PHOTO, (a, b)


def _same_png(a: object, b: object) -> None:
    assert a == b


def _same_vector(a: object, b: object) -> None:
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-3)


if __name__ == "__main__":
    main()
