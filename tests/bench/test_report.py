"""A stored run, told again: `results.json` is of a real one, cut short, on a machine busy with other things."""

from __future__ import annotations

import copy
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from depthface_bench import figures, placement, plots, reading, report, targets
from depthface_bench.__main__ import main
from depthface_bench.perf_analyzer import Load, Measured
from depthface_bench.sweep import best
from depthface_bench.variants import Variant

HERE = Path(__file__).parent
PHOTO = ("depth", "1920×1280")
ROUNDS = 3
OURS, SERVICE = ("server", "fp32"), ("service", "fp32")


@pytest.fixture
def results() -> dict:
    found = json.loads((HERE / "results.json").read_text())
    for one in found["rounds"]:
        one["images_s"] *= ROUNDS  # it had one
    return found


def set_rates(results: dict, kind: str, at_once: int, values: list[float], precision: str = "fp32") -> None:
    """Give a way of `PHOTO` other figures."""
    found = [
        one
        for one in results["rounds"]
        if (one["task"], one["photo"]) == PHOTO and (one["kind"], one["precision"]) == (kind, precision)
    ]
    of_count = [one for one in found if one["at_once"] == at_once]
    if not of_count:
        of_count = [found[0] | {"at_once": at_once}]
        results["rounds"] += of_count
    of_count[0]["images_s"] = values


def test_ratios_are_of_the_same_round():
    assert figures.ratio([2, 9, 4], [1, 3, 4]) == figures.Spread(2, 1, 3)
    assert figures.spread([3, 1, 2]).text(1, " s") == "2.0 s (1.0–3.0)"
    with pytest.raises(ValueError):
        figures.ratio([1, 2], [1])


@pytest.mark.parametrize("count", [5, 20, 40])
def test_what_a_median_lies_between_holds_it_as_often_as_is_said(count):
    chance = np.random.default_rng(count)
    found = [figures.of_median(list(chance.exponential(size=count))) for _ in range(2000)]
    assert 0.92 < np.mean([one.low <= np.log(2) <= one.high for one in found]) < 0.99
    assert np.mean([one.median < np.log(2) for one in found]) == pytest.approx(0.5, abs=0.1)


def test_a_comparison_takes_each_at_its_best(results):
    set_rates(results, "server", 1, [3.0, 3.0, 3.0])
    set_rates(results, "server", 4, [2.0, 2.0, 2.0])
    set_rates(results, "service", 1, [1.0, 1.0, 1.0])
    set_rates(results, "service", 4, [2.0, 1.5, 1.0])
    assert reading.best_at_once(results, *PHOTO, OURS) == 1
    assert reading.best_at_once(results, *PHOTO, SERVICE) == 4
    assert reading.against(results, *PHOTO, OURS, SERVICE) == figures.Spread(2.0, 1.5, 3.0)
    assert reading.against(results, *PHOTO, OURS, SERVICE, at_once=1) == figures.Spread(3.0, 3.0, 3.0)


def test_a_target_is_met_by_its_median_or_not(results):
    aim = "depth 1920×1280, fp32, against the service, each at its best"
    for rate, is_met in ((1.59, False), (1.6, True)):
        set_rates(results, "service", 1, [1.0, 1.0, 1.0])
        set_rates(results, "server", 1, [rate, 0.1, 9.0])
        assert {one.text: one.is_met for one in targets.targets(results)}[aim] is is_met


def test_a_target_that_was_not_measured_is_neither(results):
    found = {one.text: one for one in targets.targets(results)}
    assert found["depth 1920×1280, bf16, against the service, each at its best"].is_met is None
    assert "not measured here" in report.markdown(results, [])


def test_a_tail_is_read_off_the_best_concurrency(results):
    (one,) = (one for one in results["driven"] if (one["task"], one["role"]) == ("depth", "best"))
    one["piece_ms"] = one["p50_ms"]
    results["driven"] += [one | {"p99_ms": one["p50_ms"] * times} for times in (1.51, 1.9)]
    one["p99_ms"] = one["p50_ms"]
    tails = {one.text: one for one in targets.targets(results) if "p99" in one.text}
    (found,) = (one for text, one in tails.items() if text.startswith("depth, fp32"))
    assert found.measured.median == pytest.approx(1.51)
    assert (found.measured.low, found.measured.high) == (1, pytest.approx(1.9))
    assert found.is_met is False


def test_the_machines_own_tail_stands_beside_it(results):
    bests = [one for one in results["driven"] if (one["task"], one["role"]) == ("depth", "best")]
    # 100 pieces: the 99th of them is the one slow piece but one.
    bests[0] |= {"p50_ms": 100.0, "p99_ms": 120.0, "piece_ms": 100.0, "machine_ms": [100.0] * 98 + [130.0, 200.0]}
    assert reading.machine_tail(results, "depth", "fp32") == pytest.approx(1.3)
    assert "| depth, fp32 | 1.20 (1.20–1.20) | 1.30 |" in report.markdown(results, [])


def test_pieces_that_were_too_short_have_no_tail(results):
    """Those of older runs, with several requests under way: ours stands alone, and no aim is measured."""
    (found,) = (one for one in results["driven"] if (one["task"], one["role"]) == ("depth", "best"))
    found |= {"p50_ms": 100.0, "p99_ms": 120.0, "machine_ms": [50.0] * 99 + [100.0]}
    aim = "depth, fp32, p99 / p50 at the best concurrency, over the machine's own"
    for count, machine, is_met in ((1, "1.00", True), (2, "–", None)):
        found["load"]["value"] = count
        text = report.markdown(results, [])
        assert f"| depth, fp32 | 1.20 (1.20–1.20) | {machine} |" in text
        assert ("short to stand beside" in text) is (machine == "–")
        assert {one.text: one.is_met for one in targets.targets(results)}[aim] is is_met


def test_memory_when_ready_and_after_the_work_are_told_apart(results):
    service = {"kind": "service", "precision": "fp32", "task": "depth"}
    ours = {"kind": "server", "precision": "fp32"}
    of_an_older_run = [
        service | {"start_s": 3.0, "memory_bytes": 4e9},
        ours | {"start_s": 1.0, "memory_bytes": 3e9},
        ours | {"start_s": 2.0, "memory_bytes": 1e9},
    ]
    text = report.markdown(results | {"start": of_an_older_run}, [])
    assert "| depthface serve, fp32 | 1.5 (1.0–2.0) | 1.00 | 3.00 |" in text
    assert "| depth: transformers behind FastAPI | 3.0 (3.0–3.0) | – | 4.00 |" in text
    assert "may have rested" in text
    found = [ours | {"start_s": 1.0, "ready_bytes": 1e9}, ours | {"start_s": 2.0, "ready_bytes": 1.1e9}]
    found += [ours | {"worked_bytes": 2e9}, ours | {"worked_bytes": 1.5e9}]
    found += [service | {"start_s": 3.0, "ready_bytes": 0.5e9, "worked_bytes": 4e9}]
    text = report.markdown(results | {"start": found}, [])
    assert "| depthface serve, fp32 | 1.5 (1.0–2.0) | 1.10 | 2.00 |" in text
    assert "| depth: transformers behind FastAPI | 3.0 (3.0–3.0) | 0.50 | 4.00 |" in text
    assert "may have rested" not in text


def test_losing_cases_are_said(results):
    set_rates(results, "server", 1, [1.0, 1.0, 1.0])
    set_rates(results, "library", 1, [1.25, 1.25, 1.25])
    set_rates(results, "service", 1, [0.5, 0.5, 0.5])
    lines = [line for line in report.losing(results) if line.startswith("depth 1920×1280")]
    assert any("transformers, in process 0.80×" in line for line in lines)
    assert not any("FastAPI" in line for line in lines)
    assert all(f"- {line}" in report.markdown(results, []) for line in lines)


@pytest.mark.parametrize(("rate", "is_said"), [(0.8, True), (0.99, True), (0.999, True), (1.0, False), (1.01, False)])
def test_every_loss_is_said_however_small_and_nothing_else_is(results, rate, is_said):
    set_rates(results, "server", 1, [rate, rate, rate])
    set_rates(results, "library", 1, [1.0, 1.0, 1.0])
    found = [
        line
        for line in report.losing(results)
        if line.startswith("depth 1920×1280: depthface, over HTTP, fp32 against transformers")
    ]
    assert bool(found) is is_said


@pytest.mark.parametrize(("times", "is_said"), [(1.2, True), (1.01, True), (0.99, False)])
def test_so_is_preprocessing_on_the_slower_side(results, times, is_said):
    kept = [one for one in results["placement"] if one["link_mbit_s"] is None]
    here = {one["photo"]: one for one in kept if one["way"] == placement.TENSOR}
    for one in kept:
        if one["way"] == placement.PHOTO:
            one["ms"] = [times * value for value in here[one["photo"]]["ms"]]
    assert here
    said = [line for line in report.losing(results | {"placement": kept}) if line.startswith("preprocessing")]
    assert len(said) == is_said * len(here)


def test_what_was_unstable_has_no_figure(results):
    broken = copy.deepcopy(results)
    (at,) = (i for i, one in enumerate(broken["driven"]) if (one["task"], one["role"]) == ("depth", "concurrency"))
    one = broken["driven"][at]
    kept = {name: one[name] for name in ("task", "precision", "role", "tries", "load")}
    broken["driven"][at] = kept | {"unstable": "wavered"}
    assert report.unstable(results) == []
    assert report.unstable(broken) == ["depth, fp32: wavered"]
    text = report.markdown(broken, [])
    assert "unstable: no figure" in text
    assert "- no figure: depth, fp32: wavered" in text


def test_the_best_concurrency_is_the_least_that_is_as_good():
    def at(count: int, *windows: float) -> Measured:
        return Measured(Load("concurrency", count, 1), statistics.mean(windows), windows, 1, 1, 1, 1, 1, ())

    some = [at(1, 0.9, 0.93, 0.9), at(2, 0.95, 0.97, 0.99), at(4, 0.98, 1.0, 1.02), at(8, 0.9, 0.99, 1.0)]
    assert best(some).load.value == 2


def test_the_share_of_the_limit(results):
    set_rates(results, "server", 1, [0.5, 0.5, 0.5])
    results["limits"]["gemm_gflop_s"]["fp32"] = {"torch": [99.0, 100.0, 104.0], "OpenVINO": [150.0, 200.0, 210.0]}
    gflop = results["limits"]["gflop"]["1920×1280"]
    of_a_run_before = reading.share_of_peak(results | {"peaks": []}, *PHOTO, OURS)
    assert of_a_run_before.median == pytest.approx(0.5 * gflop / 200)
    task, photo = PHOTO
    rates = {"torch": [100.0, 400.0, 100.0], "OpenVINO": [200.0, 200.0, 250.0]}
    peaks = [
        {"task": task, "photo": photo, "precision": "fp32", "library": library, "gflop_s": values}
        for library, values in rates.items()
    ]
    share = reading.share_of_peak(results | {"peaks": peaks}, task, photo, OURS)
    assert [share.low, share.median, share.high] == pytest.approx([0.5 * gflop / most for most in (400, 250, 200)])


def test_the_report_is_written_whole(results, tmp_path):
    data = tmp_path / f"{results['machine']['slug']}.json"
    data.write_text(json.dumps(results))
    done = CliRunner().invoke(main, ["report", str(data)])
    assert done.exit_code == 0, done.output
    text = data.with_suffix(".md").read_text()
    assert results["machine"]["title"] in text
    assert results["revision"] in text
    for heading in (
        "Targets",
        "Where it loses",
        "Depth",
        "Faces",
        "Under load",
        "Preprocessing",
        "The limit",
        "Growth",
    ):
        assert f"## {heading}" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert not [row for row in rows if "nan" in row or "None" in row]
    for name in ("rates", "load", "growth"):
        with Image.open(tmp_path / f"{data.stem}-{name}.png") as picture:
            assert picture.width <= 1080
            assert picture.height > 600
            assert picture.mode == "P"
        assert f"{data.stem}-{name}.png" in text


def test_a_gpus_rows_stand_beside_the_cpus(results, tmp_path):
    """Stored as a run on a GPU stores them: the CPU's records, at twice its rates, under the variant's name."""
    names = [one.name for one in (Variant("fp32", "cuda"), Variant("fp16", "tensorrt"))]
    results["precisions"] += names
    for section in ("rounds", "driven", "growth", "start"):
        cpu = [one for one in results[section] if (one.get("kind", "server"), one["precision"]) == OURS]
        for name in names:
            twice = ({"images_s": [2 * rate for rate in one["images_s"]]} if "images_s" in one else {} for one in cpu)
            results[section] += [one | {"precision": name} | more for one, more in zip(cpu, twice, strict=True)]
    text = report.markdown(results, plots.plot(results, tmp_path, "x"))
    for name in names:
        assert reading.against(results, *PHOTO, ("server", name), OURS).median == pytest.approx(2)
        for start in ("depthface, over HTTP, {} | 1 |", "depth | {} | 2 at once |", "depthface serve, {} |"):
            assert f"\n| {start.format(name)}" in text
        # A GPU's peak is not measured, so there is no share of it.
        assert f"| depthface, over HTTP, {name} | – |" in text


def test_plots_of_what_was_not_measured_are_left_out(results, tmp_path):
    results["driven"] = []
    assert plots.plot(results, tmp_path, "x") == ["x-rates.png", "x-growth.png"]
