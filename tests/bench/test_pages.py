"""No figure of speed is typed: the README, the pages and each stored report are made of the results beside them."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from depthface.errors import DepthfaceError
from depthface_bench import machine, pages, report

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
STEMS = sorted(path.stem for path in RESULTS.glob("*.json"))
MEND = "Run `python -m depthface_bench pages`."


@pytest.fixture(scope="module")
def some() -> list[pages.Processor]:
    return pages.processors(RESULTS)


@pytest.mark.parametrize("page", pages.PAGES, ids=str)
def test_the_tables_are_those_of_the_results(page, some):
    text = (ROOT / page).read_text()
    assert text == pages.filled(text, some), MEND


@pytest.mark.parametrize("page", pages.PAGES, ids=str)
def test_no_figure_of_speed_stands_outside_a_table(page):
    text = (ROOT / page).read_text()
    if page.name == "README.md":
        text = text[text.index("## How fast it is") : text.index("## Docker")]
    outside = pages._MARKED.sub("", text)
    assert len(pages._MARKED.findall(text)) >= 1
    # The page on operating is about speed only in passing: there it is the memory.
    figures = r"\d GB" if page.name == "operating.md" else r"\d\.\d+×|\d+(?:\.\d+)? GFLOP|\d %"
    assert not re.findall(figures, outside)


def test_the_readme_has_one_table_of_speed():
    text = (ROOT / "README.md").read_text()
    section = text[text.index("## How fast it is") : text.index("## Docker")]
    assert len(re.findall(r"^\| --- ", section, re.MULTILINE)) == 1


@pytest.mark.parametrize("stem", STEMS)
def test_a_stored_report_is_made_of_its_data(stem):
    results = json.loads((RESULTS / f"{stem}.json").read_text())
    pictures = [f"{stem}-{what}.png" for what in ("rates", "load", "growth")]
    for name in pictures:
        with Image.open(RESULTS / name) as picture:
            assert picture.mode == "P", name  # a third of the size that matplotlib's own file has
    made = report.markdown(results, pictures)
    assert (RESULTS / f"{stem}.md").read_text() == made, f"Run `python -m depthface_bench report {stem}.json`."
    slug = machine.Machine(**{k: v for k, v in results["machine"].items() if k not in ("slug", "title")}).slug
    assert stem.removesuffix("-quick") == results["machine"]["slug"] == slug


def test_a_changed_result_changes_the_tables(some):
    """All of them; and so does one figure typed into a page."""
    text = "".join(f"<!-- measured: {name} -->\nold\n<!-- end -->\n" for name in pages._TABLES)
    before = pages.filled(text, some)
    assert "old" not in before
    others = copy.deepcopy(some)
    for one in others:
        for record in one.results["rounds"]:
            record["images_s"] = [rate * (3 if record["kind"] == "server" else 2) for rate in record["images_s"]]
        for record in one.results["driven"]:
            if "p99_ms" in record:
                record["p99_ms"] *= 2
        for held in one.results.get("costs", {}).get("depth_alone", {}).values():
            held["ready_gb"] = [2 * gb for gb in held["ready_gb"]]
        one.results["date"] = "2030-01-01"
    after = pages.filled(text, others)
    for name in pages._TABLES:
        marked = re.compile(rf"<!-- measured: {name} -->\n(.*?)<!-- end -->", re.DOTALL)
        assert marked.search(before)[1] != marked.search(after)[1], name
    spoilt = before.replace("×", "×1", 1)
    assert pages.filled(spoilt, some) == before


def test_a_table_that_is_not_known_is_named(some):
    with pytest.raises(DepthfaceError, match="no table 'nothing'"):
        pages.filled("<!-- measured: nothing -->\n<!-- end -->", some)


def test_the_whole_run_goes_before_the_quick_one(tmp_path):
    whole = json.loads((RESULTS / f"{STEMS[0]}.json").read_text())

    def stored(stem: str, cpu: str) -> None:
        results = whole | {"machine": whole["machine"] | {"cpu": cpu}}
        (tmp_path / f"{stem}.json").write_text(json.dumps(results))

    stored("intel-quick", "Intel Xeon (family 6, model 207)")
    stored("unknown", "Some CPU 9000")
    stored("zen-quick", "AMD EPYC (family 26, model 2)")
    stored("zen", "AMD EPYC (family 26, model 2)")
    found = pages.processors(tmp_path)
    assert [(one.name, one.stem, one.is_quick) for one in found] == [
        ("Zen 5", "zen", False),
        ("Xeon with AMX", "intel-quick", True),
        ("Some CPU 9000", "unknown", False),
    ]
    text = pages.filled("<!-- measured: files -->\n<!-- end -->", found)
    assert "blob/main/benchmarks/results/intel-quick.md" in text and "the shorter run" in text
