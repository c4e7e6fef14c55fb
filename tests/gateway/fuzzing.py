"""`make fuzz-gateway`: schemathesis asks each contract's app whatever its OpenAPI allows, and what it does not.

    python tests/gateway/fuzzing.py immich faces --minutes 10

A real Triton stands behind, with depth, faces and CLIP. Nothing but the 5xx that a contract asks for may come back, the
gateway may not end, and none of its log lines may be a traceback.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.gateways import CROWD, NO_PHOTO, NOBODY, PORTRAIT, Gateway, gateway, jpeg
from fixtures.proxies import reach_this_machine
from fixtures.serving import depthface, serving

__all__ = ["VARIABLES", "fuzz", "options_of"]

NAMES = ("immich", "immichvr", "faces", "jobs", "depthflow", "page")
MODELS = (("depth_anything_v2_small", "random"), ("buffalo_l", "synthetic"), ("clip_vit_b_32", "synthetic"))
VARIABLES = {
    "AUTH_DISABLED": "1",
    "MEDIA_STORE_URL": "http://127.0.0.1:9",  # nobody is there: jobs that come without a photo wait for it
    "DEPTHFLOW_MAX_WAITING": "3",
}
UPLOADS = ("image", "file", "source", "target", "source_image", "target_image")
TASKS = ("image_embedding", "face_detection", "face_embedding")
FORM = "multipart/form-data"

BATCH = 20
TIMEOUT_S = 300

SMALL = jpeg(np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8))
PHOTOS = st.sampled_from([SMALL, PORTRAIT, CROWD, NOBODY, NO_PHOTO, b"", SMALL[:300]]) | st.binary(max_size=200)

ENTRIES = st.sampled_from(
    [
        {"clip": {"visual": {"modelName": "ViT-B-32__openai"}}},
        {"clip": {"textual": {"modelName": "ViT-B-32__openai", "options": {"language": "de"}}}},
        {
            "facial-recognition": {
                "detection": {"modelName": "buffalo_l", "options": {"minScore": 0.7}},
                "recognition": {"modelName": "buffalo_l"},
            }
        },
        {"facial-recognition": {"detection": {"modelName": "buffalo_l"}}},
        {"ocr": {"detection": {"modelName": "x"}, "recognition": {"modelName": "x"}}},
    ]
).map(json.dumps)
CLIPS = st.fixed_dictionaries(
    {},
    optional={
        "depth_strength": st.floats(0.1, 5),
        "animation_duration": st.floats(1, 1.2),
        "fps": st.just(15),
        "output_format": st.sampled_from(["mp4", "webm", "gif"]),
        "camera_movement": st.sampled_from(["orbit", "zoom", "dolly", "static"]),
    },
).map(lambda parameters: json.dumps({"parameters": parameters}))

FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "entries": ENTRIES,
    "request": CLIPS,
    "images": st.lists(PHOTOS, max_size=3).map(lambda all: {"data": [base64.b64encode(one).decode() for one in all]}),
    "threshold": st.floats(0, 1),
}
"""What a field means besides what OpenAPI tells of it: with it the routes behind the forms are reached."""

ASKED_FOR: Mapping[str, Callable[[requests.Response], bool]] = {
    # A model that is not exported cannot be loaded, nor asked: `services/ai` answers so.
    "immichvr": lambda answer: (
        answer.json().get("success") is False or answer.json()["error"] == "Model not initialized"
    ),
    "faces": lambda answer: answer.status_code == 503 and "No face swapper is served" in answer.text,
    "depthflow": lambda answer: answer.json()["error"] == "service_busy",
    # No model was named, and none is served that does it.
    "page": lambda answer: answer.status_code == 503 and " serves no model for " in answer.text,
}


def options_of(name: str, data: Path) -> tuple[str, ...]:
    """Options of the command for a contract."""
    return ("--data", str(data)) if name in ("jobs", "depthflow") else ()


@dataclass
class Fuzz:
    """What asks one app.

    Attributes:
        counts: how often it answered with which status.
        ids: of jobs that it has taken.
    """

    name: str
    url: str
    seconds: float
    deadline: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    ids: list[str] = field(default_factory=list)

    def run(self, first_seed: int) -> None:
        """Ask for so many seconds; raises `AssertionError` for a finding."""
        schema = schemathesis.openapi.from_url(f"{self.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        self.deadline = time.monotonic() + self.seconds
        for number in itertools.count(first_seed):
            for operation in operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    if time.monotonic() > self.deadline:
                        return
                    self._batch(operation.as_strategy(generation_mode=mode), number)

    def _batch(self, cases: st.SearchStrategy[Any], number: int) -> None:
        @seed(number)
        @settings(
            max_examples=BATCH, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=cases, data=st.data())
        def asked(case: Any, data: st.DataObject) -> None:
            self._fill(case, data)
            if time.monotonic() <= self.deadline:
                self._ask(case)

        with suppress(Unsatisfiable):  # there is nothing that the route would refuse
            asked()

    def _fill(self, case: Any, data: st.DataObject) -> None:
        """Put in what the routes behind the forms want, half of the time."""
        if isinstance(case.body, dict) and data.draw(st.booleans()):
            for name in sorted(case.body.keys() & FIELDS.keys()):
                case.body[name] = data.draw(FIELDS[name])
            if case.media_type == FORM:
                for name in sorted(case.body.keys() & set(UPLOADS)):
                    case.body[name] = data.draw(PHOTOS)
        for name in sorted((case.path_parameters or {}).keys() & {"job_id", "task_id"}):
            which = data.draw(st.integers(0, 9))  # what is drawn may not hang on what came before
            if which < len(self.ids):
                case.path_parameters[name] = self.ids[-1 - which]
        if "task_type" in (case.path_parameters or {}) and data.draw(st.booleans()):
            case.path_parameters["task_type"] = data.draw(st.sampled_from(TASKS))

    def _ask(self, case: Any) -> None:
        told = case.as_transport_kwargs(base_url=self.url)
        if case.media_type == FORM and isinstance(case.body, dict):  # schemathesis sends files as mere fields
            parts = [(name, one) for name, some in case.body.items() for one in _listed(some)]
            told["files"] = [(name, ("a.jpg", one)) for name, one in parts if isinstance(one, bytes)]
            told["data"] = [(name, str(one)) for name, one in parts if not isinstance(one, bytes)]
            if told["files"]:
                told["headers"] = {k: v for k, v in told["headers"].items() if k.lower() != "content-type"}
        try:
            request = requests.Request(**told).prepare()
        except (requests.exceptions.InvalidHeader, UnicodeError):  # what HTTP cannot carry
            return
        with requests.Session() as session, session.send(request, timeout=TIMEOUT_S, stream=True) as answer:
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return  # it goes on until its job ends
            text = answer.text[:1000]
            self.counts[str(answer.status_code)] += 1
            is_sound = answer.status_code < 500 or answer.status_code == 501 or _is_asked_for(self.name, answer)
            assert is_sound, f"{request.method} {request.url} {request.body!r:.3000}\n{answer.status_code} {text}"
            assert answer.headers.get("x-request-id"), request.url
            if answer.status_code in (200, 201) and "json" in answer.headers["content-type"]:
                said = answer.json()
                self.ids.extend(said[key] for key in ("job_id", "task_id") if isinstance(said, dict) and key in said)


def _listed(some: Any) -> list[Any]:
    return some if isinstance(some, list) else [some]


def _is_asked_for(name: str, answer: requests.Response) -> bool:
    try:
        return name in ASKED_FOR and ASKED_FOR[name](answer)
    except (ValueError, KeyError):
        return False


@contextmanager
def _triton(told: str) -> Iterator[str]:
    if told:
        yield told
        return
    repository = Path("build/fuzz-gateway/model_repository")
    for model, weights in MODELS:
        done = depthface("export", model, "--weights", weights, "--repository", repository, timeout_s=1800)
        assert done.returncode == 0, done.stderr
    with serving(repository) as server:
        yield server.host
        server.stop()


def fuzz(name: str, running: Gateway, seconds: float, first_seed: int) -> None:
    """Ask a contract's app of a gateway for so long; raises `AssertionError` for a finding."""
    schemathesis.openapi.media_type("application/octet-stream", PHOTOS)
    fuzzing = Fuzz(name, running.urls[name], seconds)
    fuzzing.run(first_seed)
    assert running.process.poll() is None, "the gateway has ended"
    assert not [line for line in running.lines if line.startswith("Traceback")], "\n".join(running.lines[-200:])
    counts = dict(sorted(fuzzing.counts.items()))
    assert counts, "nothing was asked"
    print(f"{name}: {sum(counts.values())} requests, nothing found; {counts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--triton", default="", help="HOST:PORT of a server that runs; else one is exported and started"
    )
    arguments = parser.parse_args()
    reach_this_machine()
    with ExitStack() as stack:
        triton = stack.enter_context(_triton(arguments.triton))
        for name in arguments.names:
            with (
                tempfile.TemporaryDirectory() as folder,
                gateway(name, url=triton, options=options_of(name, Path(folder)), **VARIABLES) as running,
            ):
                fuzz(name, running, 60 * arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
