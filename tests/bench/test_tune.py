"""The sweep over instances, threads, batches and delays."""

from __future__ import annotations

import shutil

import pytest

from depthface.config import read as read_config
from depthface.contract import EXPORTED_CONFIG
from depthface.cores import Cores
from depthface_bench import tune
from depthface_bench.perf_analyzer import Load, Measured
from depthface_bench.repositories import DEPTH, Setting, overridden

NETWORK = f"{DEPTH}_network"


def test_the_cores_are_split_and_never_shared():
    for cores in (1, 2, 6):
        some = tune.settings(cores)
        assert some[0] == Setting(1, cores, 1, 0)
        assert len(set(some)) == len(some)
        assert all(one.instances * one.threads == cores for one in some)


@pytest.mark.parametrize("setting", tune.settings(2)[1:], ids=str)
def test_a_setting_reaches_the_config_of_a_copy(repository, tmp_path, setting):
    overridden(repository, tmp_path / "copy", NETWORK, setting)
    found = read_config(tmp_path / "copy" / NETWORK / EXPORTED_CONFIG)
    assert found.instance_group[0].count == setting.instances
    assert found.parameters["intra_op_thread_count"].string_value == str(setting.threads)
    assert found.dynamic_batching.preferred_batch_size == [setting.batch]
    assert found.dynamic_batching.max_queue_delay_microseconds == setting.delay_us
    assert "intra_op_thread_count" not in read_config(repository / NETWORK / EXPORTED_CONFIG).parameters
    shutil.rmtree(tmp_path / "copy")


def test_the_default_is_what_is_generated(repository, tmp_path):
    """Two threads on two cores is what the backend takes by itself; nothing else differs."""
    overridden(repository, tmp_path / "copy", NETWORK, tune.settings(2)[0])
    found = read_config(tmp_path / "copy" / NETWORK / EXPORTED_CONFIG)
    assert found.parameters.pop("intra_op_thread_count").string_value == "2"
    assert found == read_config(repository / NETWORK / EXPORTED_CONFIG)


def test_the_table_begins_with_the_fastest_and_has_no_figure_for_the_unstable():
    def at(throughput: float) -> Measured:
        return Measured(Load("concurrency", 1, 1), throughput, (throughput,), 10, 11, 12, 13, 3, ())

    slow, fast, none = tune.settings(2)[:3]
    text = tune.table([tune.Tried(slow, (at(1.0),)), tune.Tried(none, (None,)), tune.Tried(fast, (at(2.0),))], (1,))
    rows = [line.split("|")[5].strip() for line in text.splitlines()[2:]]
    assert rows == ["2.00 (2.00–2.00)", "1.00 (1.00–1.00)", "unstable"]


RULE, OTHER = tune.settings(2)[0], tune.settings(2)[1]


def of(*windows: float) -> Measured:
    return Measured(Load("concurrency", 1, 1), sorted(windows)[1], windows, 10, 11, 12, 13, 3, ())


@pytest.mark.parametrize(
    ("rule", "other", "said"),
    [
        (of(2, 2.1, 2), of(1, 1.1, 1), "confirmed, it is the best measured, 2.00"),
        (of(2, 2.1, 2), of(2.1, 2.2, 2.1), "confirmed, 2.00 (2.00–2.10) requests/s. The best measured"),
        (of(2, 2.1, 2), of(2.5, 2.6, 2.5), "NOT the best, 2.00 (2.00–2.10) requests/s. 1 × 2 threads, batches of 8"),
        (None, of(2.5, 2.6, 2.5), "unstable"),
    ],
)
def test_the_rule_is_held_against_the_best(rule, other, said):
    text = tune.verdict([tune.Tried(OTHER, (other,)), tune.Tried(RULE, (rule,))], RULE, (4,))
    assert text.startswith("`depthface serve` chooses by itself: 1 × 2 threads, no batches, no waiting.\n")
    assert f"At 4 at once: {said}" in text
    if "NOT" in said:
        assert "is 1.25× as quick" in text


def test_what_serve_chooses_is_among_the_settings(repository):
    assert tune.chosen(repository, NETWORK, Cores(2)) == RULE
    assert "not among the settings" in tune.verdict([tune.Tried(OTHER, (None,))], RULE, (4,))
