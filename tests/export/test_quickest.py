"""`--precision auto`: each candidate through the gate, the quickest that holds laid out, nothing left of the others."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from export.conftest import snapshot
from fixtures.engines import H200
from fixtures.exporting import job_of

from depthface import machine, manifest
from depthface.errors import ExportError, ParityError
from depthface.families import all_cards, card_named
from depthface.processor import multiplies_bf16
from depthface.spec import EngineOptions
from depthface_export import pipeline, quickest
from depthface_export.cli import export
from depthface_export.job import Engines, NetworkJob

BOTH = ("fp16", "fp32")


@pytest.fixture
def timed(monkeypatch):
    """Set how long a precision takes, in seconds, and see which were timed."""

    def timed(**seconds: float) -> list[str]:
        asked: list[str] = []

        class Stopwatch:
            def time_s(self, making) -> float:
                asked.append(making.precision)
                return seconds[making.precision]

        monkeypatch.setattr(quickest, "Stopwatch", Stopwatch)
        return asked

    return timed


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def made_once(kept, monkeypatch):
    """Each precision is made and proven once for the tests that ask for this; then it is copied."""
    make = pipeline._make

    def once(job, build):
        if not (kept / job.precision).exists():
            make(job, kept / job.precision)
        for network in job.card.networks:
            shutil.copytree(kept / job.precision / network.name, build / network.name)
        return {one.name: NetworkJob(job, one, None, build / one.name / "1") for one in job.card.networks}

    monkeypatch.setattr(pipeline, "_make", once)


def found_in(card, target) -> manifest.Manifest:
    folder = target / card.networks[0].name / "1"
    found = manifest.read(folder)
    assert found is not None and not found.differences(folder)
    return found


@pytest.mark.parametrize(
    ("taken_ms", "best"),
    [
        ({"bf16": 170.0, "int8": 240.0, "fp32": 480.0}, "bf16"),
        ({"bf16": 500.0, "int8": 240.0, "fp32": 480.0}, "int8"),
        ({"int8": 500.0, "fp32": 480.0}, "fp32"),
        ({"bf16": 100.0, "int8": 96.0, "fp32": 300.0}, "bf16"),  # a few per cent are not worth being less exact
        ({"fp16": 100.0, "fp32": 104.0}, "fp32"),
        ({"int8": 7.0}, "int8"),
    ],
)
def test_the_quickest_is_the_best_but_for_a_few_per_cent(taken_ms, best):
    assert quickest._best(taken_ms) == best


def test_what_is_quickest_stays_and_nothing_of_the_others(tiny, run, timed, made_once, tmp_path):
    seconds, best = {"fp16": 0.1, "fp32": 0.3}, "fp16"
    asked = timed(**seconds)
    outcome, lines = run(tiny, tmp_path / "auto", precisions=BOTH)
    assert outcome == "exported" and asked == list(BOTH)
    found = found_in(tiny, tmp_path / "auto")
    assert found.precision == best
    assert found.command[-2:] == ["--precision", best]
    assert found.choice == {"precision": best, "tried": {name: 1000 * value for name, value in seconds.items()}}
    said = [line for line in lines if line.startswith("auto: ")]
    assert len(said) == 4 and said[-1].startswith(f"auto: {best}, ")
    for name, value in seconds.items():
        assert f"auto: {name} holds, {1000 * value:.1f} ms for what is usual" in said
    # But for the note of the choice, it is the export of that precision.
    run(tiny, tmp_path / "plain", precision=best)
    auto, plain = snapshot(tmp_path / "auto"), snapshot(tmp_path / "plain")
    assert auto.keys() == plain.keys()
    for name in plain:
        if name.endswith("manifest.json"):
            assert json.loads(auto[name]) | {"choice": None} == json.loads(plain[name])
        else:
            assert auto[name] == plain[name], name


def test_what_was_chosen_stays_chosen_until_something_changes(tiny, run, timed, made_once, tmp_path):
    timed(fp16=0.1, fp32=0.3)
    run(tiny, tmp_path, precisions=BOTH)
    before = snapshot(tmp_path)
    asked = timed(fp16=0.3, fp32=0.1)
    assert run(tiny, tmp_path, precisions=BOTH) == ("unchanged", [])
    assert run(tiny, tmp_path, precision="fp16") == ("unchanged", [])
    assert snapshot(tmp_path) == before and not asked
    # Another machine's candidates.
    outcome, lines = run(tiny, tmp_path, precisions=("fp32",))
    assert outcome == "exported"
    assert "auto: fp32, the only one of Depth Anything V2 Small on this machine" in lines
    assert not asked
    # A precision that the user chose was never held against others.
    run(tiny, tmp_path, precision="fp16")
    assert found_in(tiny, tmp_path).choice is None
    assert run(tiny, tmp_path, precisions=BOTH)[0] == "exported"
    assert found_in(tiny, tmp_path).precision == "fp32"
    # Nor does a damaged file stay.
    (tmp_path / tiny.networks[0].name / "1" / "model.onnx").write_bytes(b"?")
    assert run(tiny, tmp_path, precisions=BOTH)[0] == "exported"
    assert found_in(tiny, tmp_path).precision == "fp32"


def test_what_does_not_hold_is_not_taken_however_quick(tiny, run, timed, tmp_path):
    asked = timed(fp16=0.1, fp32=0.3)
    strict = dataclasses.replace(
        tiny, tolerances=tiny.tolerances | {"fp16": dict.fromkeys(tiny.tolerances["fp16"], 0.0)}
    )
    _, lines = run(strict, tmp_path, precisions=BOTH)
    assert asked == ["fp32"]
    found = found_in(strict, tmp_path)
    assert found.precision == "fp32"
    assert "does not equal its reference" in found.choice["tried"]["fp16"]
    assert any(line.startswith("auto: fp16 does not hold: ") for line in lines)
    assert "auto: fp32, the only one that holds" in lines


def test_where_none_holds_nothing_has_changed(tiny, tiny_repository, run, timed, tmp_path):
    timed(fp16=0.1, fp32=0.3)
    shutil.copytree(tiny_repository, tmp_path / "repository")
    before = snapshot(tmp_path / "repository")
    none = {name: dict.fromkeys(metrics, -1.0) for name, metrics in tiny.tolerances.items()}
    with pytest.raises(ParityError):
        run(dataclasses.replace(tiny, tolerances=none), tmp_path / "repository", precisions=BOTH)
    assert snapshot(tmp_path / "repository") == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_is_timed_as_it_is_served(tiny, monkeypatch, tmp_path, precision):
    """By real runs, on the shape that the card says is usual."""
    if precision == "bf16" and not multiplies_bf16():
        pytest.skip("This processor is no quicker in bf16, so that a server computes such a file in fp32.")
    seen = []
    taken_s = quickest._taken_s

    def noting(run, feed):
        seen.append({name: value.shape for name, value in feed.items()})
        return taken_s(run, feed)

    monkeypatch.setattr(quickest, "_taken_s", noting)
    (network,) = pipeline._make(job_of(tiny, tmp_path, precision=precision), tmp_path / "build").values()
    assert 0 < quickest.Stopwatch().time_s(network) < 60
    assert seen == quickest._RUNS * [{"pixels": (1, 518, 686, 3)}]


@pytest.mark.parametrize(
    ("is_quick_at_bf16", "has_cuda", "engines", "model", "expected"),
    [
        (True, False, False, "depth_anything_v2_small", ("bf16", "int8", "fp32")),
        (False, False, False, "depth_anything_v2_small", ("int8", "fp32")),
        (True, False, False, "buffalo_l", ("bf16", "fp32")),
        (True, True, False, "depth_anything_v2_small", ("fp16", "fp32")),
        (False, False, True, "clip_vit_b_32", ("fp16", "fp32")),
    ],
)
def test_the_candidates_are_what_a_machine_and_a_card_have(
    monkeypatch, is_quick_at_bf16, has_cuda, engines, model, expected
):
    monkeypatch.setattr(quickest, "multiplies_bf16", lambda: is_quick_at_bf16)
    monkeypatch.setattr(quickest, "_has_cuda", lambda: has_cuda)
    assert quickest.candidates(card_named(model), with_engines=engines) == expected


def test_a_gpu_that_cannot_be_timed_is_no_machine_for_auto(monkeypatch):
    """A processor would choose for it, and the configs would be the GPU's."""
    monkeypatch.setattr(machine, "gpus", lambda: H200.gpus)
    card = card_named("depth_anything_v2_small")
    with pytest.raises(ExportError, match=r"but this ONNX Runtime is for processors.*depthface\[gpu\].*--engine"):
        quickest.candidates(card)
    assert quickest.candidates(card, with_engines=True) == ("fp16", "fp32")


def test_every_card_has_a_candidate_on_every_machine(monkeypatch):
    monkeypatch.setattr(quickest, "multiplies_bf16", lambda: False)
    for card in all_cards().values():
        assert quickest.candidates(card)[-1] == "fp32"
        assert quickest.candidates(card, with_engines=True)[-1] == "fp32"
        for network in card.networks:
            assert network.profiles, "what is usual of it"


def test_the_command_takes_auto(monkeypatch, tmp_path):
    jobs = []
    monkeypatch.setattr(pipeline, "export", lambda job: jobs.append(job) or "unchanged")
    monkeypatch.setattr(quickest, "multiplies_bf16", lambda: True)
    words = ["depth_anything_v2_small", "--weights", "random", "--repository", str(tmp_path)]
    done = CliRunner().invoke(export, [*words, "--precision", "auto"])
    assert done.exit_code == 0, done.output
    CliRunner().invoke(export, [*words, "--precision", "int8"])
    assert [(job.precision, job.precisions) for job in jobs] == [("fp32", ("bf16", "int8", "fp32")), ("int8", ())]


def test_engines_are_not_asked_of_a_processors_precision(tiny, tmp_path):
    job = job_of(tiny, tmp_path, precisions=("bf16", "fp32"), engines=Engines(EngineOptions()))
    with pytest.raises(Exception, match="Build engines in fp32 or fp16"):
        pipeline.export(job)
