from __future__ import annotations

from pathlib import Path

import pytest

from engine.hardware.cgroup import Limits, read_limits

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1_MOUNTS = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 {inside} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 {inside} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def put(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert read_limits(tmp_path) == Limits()


def test_version_2_takes_the_tightest_of_all_levels(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/user.slice/job.scope"
    put(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/job.scope\n",
            "proc/self/mountinfo": V2_MOUNT,
            f"{group}/cpu.max": "max 100000\n",
            f"{group}/memory.max": "max\n",
            "sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": "4294967296\n",
            "sys/fs/cgroup/user.slice/memory.current": "3000000000\n",
            "sys/fs/cgroup/user.slice/memory.stat": "anon 5\ninactive_file 1000000000\n",
        },
    )
    assert read_limits(tmp_path) == Limits(cores=2.5, memory_bytes=4294967296, memory_used_bytes=2_000_000_000)


@pytest.mark.parametrize(
    ("group", "inside", "folder"),
    [
        ("/docker/abc", "/docker/abc", ""),  # a container whose mount shows its own group as the root
        ("/docker/abc", "/", ""),  # a container that sees the host's path and no such folder
        ("/slurm/job7", "/", "/slurm/job7"),
    ],
)
def test_version_1(tmp_path: Path, group: str, inside: str, folder: str) -> None:
    put(
        tmp_path,
        {
            "proc/self/cgroup": f"5:memory:{group}\n4:cpu,cpuacct:{group}\n0::/\n",
            "proc/self/mountinfo": V1_MOUNTS.format(inside=inside),
            f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_quota_us": "400000\n",
            f"sys/fs/cgroup/cpu,cpuacct{folder}/cpu.cfs_period_us": "100000\n",
            f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes": "8589934592\n",
            f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes": "1000\n",
            f"sys/fs/cgroup/memory{folder}/memory.stat": "cache 1\ntotal_inactive_file 400\n",
        },
    )
    assert read_limits(tmp_path) == Limits(cores=4.0, memory_bytes=8589934592, memory_used_bytes=600)


def test_version_1_without_limits(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/\n4:cpu:/\n",
            "proc/self/mountinfo": V1_MOUNTS.format(inside="/"),
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        },
    )
    assert read_limits(tmp_path) == Limits()
