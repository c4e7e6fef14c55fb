"""The processors that a container leaves a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from depthface.cores import Cores

BOUND = len(os.sched_getaffinity(0))


def laid_out(root: Path, groups: str, files: dict[str, str]) -> Path:
    """Make a /proc and a /sys with such files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/not/in/sight\n", {"cpu.max": "200000 100000\n"}, 2.0),
        (
            "3:cpu,cpuacct:/docker/1\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "30000", "cpu,cpuacct/cpu.cfs_period_us": "10000"},
            3.0,
        ),
        (
            "3:cpuacct,cpu:/docker/1\n",
            {"cpu/docker/1/cpu.cfs_quota_us": "30000", "cpu/docker/1/cpu.cfs_period_us": "10000"},
            3.0,
        ),
        ("3:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "10000"}, None),
        ("2:cpuset:/\n", {}, None),
        ("0::/\n", {"cpu.max": "garbage"}, None),
    ],
)
def test_the_least_limit_of_a_group_and_those_above_it_counts(tmp_path, groups, files, quota):
    found = Cores.found(laid_out(tmp_path, groups, files))
    assert found.quota == quota
    assert found.bound == BOUND


@pytest.mark.parametrize(
    ("bound", "quota", "count"), [(64, None, 64), (64, 2.0, 2), (64, 1.5, 2), (2, 8.0, 2), (4, 0.1, 1)]
)
def test_a_part_of_a_core_is_worth_a_thread_and_there_is_at_least_one(bound, quota, count):
    assert Cores(bound, quota).count == count


def test_without_control_groups_the_mask_counts(tmp_path):
    assert Cores.found(tmp_path).count == BOUND


def test_a_real_control_group_is_seen():
    """A process in a group of half a core, where this machine lets us make one."""
    group = Path("/sys/fs/cgroup/cpu/depthface-test")
    try:
        group.mkdir()
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("50000")
    except OSError as error:
        pytest.skip(f"no control group can be made here ({error.strerror})")
    try:
        code = (
            f"from pathlib import Path; Path('{group}/cgroup.procs').write_text('0')\n"
            "from depthface.cores import Cores; print(Cores.found().quota)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "0.5"
    finally:
        group.rmdir()
