from __future__ import annotations

import pytest

from engine.contract.machine import Device
from engine.hardware.visible import parse, select, worker_environment

UUIDS = ["GPU-aaaa-1", "GPU-aabb-2", "GPU-cccc-3", None]


@pytest.mark.parametrize(
    ("variable", "chosen"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("2,0", [2, 0]),
        (" 1 , 0", [1, 0]),
        ("0,-1,1", [0]),
        ("0,x,1", [0]),
        ("0,9,1", [0]),
        ("1,1", []),
        ("void", []),
        ("GPU-aabb-2,GPU-aaaa-1", [1, 0]),
        ("GPU-c", [2]),
        ("GPU-aa", []),  # ambiguous
        ("GPU-c,0", [2]),
        ("GPU-zz,GPU-c", []),
    ],
)
def test_devices_are_selected_as_torch_selects_them(variable: str | None, chosen: list[int]) -> None:
    assert select(UUIDS, variable) == chosen


def test_reading_the_variable_agrees_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for variable in ("", "-1", "2,0", "0,-1,1", "0,x,1", "1,1", "GPU-a,GPU-b", "GPU-a,0", "MIG-x,MIG-y", " 3 ,1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
        assert list(parse(variable) or ()) == torch.cuda._parse_visible_devices()


def devices(*uuids: str) -> list[Device]:
    return [Device(index=at, kind="cuda", uuid=uuid) for at, uuid in enumerate(uuids)]


def test_workers_see_the_chosen_devices_through_what_the_person_left_visible() -> None:
    two = devices("GPU-a", "GPU-b")
    order = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert worker_environment(two, [1], {}) == {"CUDA_VISIBLE_DEVICES": "1", **order}
    visible = {"CUDA_VISIBLE_DEVICES": "5,7"}
    assert worker_environment(two, [1], visible)["CUDA_VISIBLE_DEVICES"] == "GPU-b"
    amd = [Device(index=at, kind="rocm") for at in range(2)]
    assert worker_environment(amd, [1], visible)["CUDA_VISIBLE_DEVICES"] == "7", "AMD devices are known by number"
    assert worker_environment(two, [1, 0], {"CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b"}) == {
        "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a",
        **order,
    }
    assert worker_environment(devices("MIG-a", "MIG-b"), [1], {})["CUDA_VISIBLE_DEVICES"] == "MIG-b"


@pytest.mark.parametrize("listed", [slice(None), slice(2, None)])
def test_a_number_that_stands_for_several_instances_names_them_by_their_identifiers(listed: slice) -> None:
    """Entry 0 is a GPU in MIG mode: the devices are more than the entries, and their indices are not places in it."""
    four = devices("MIG-a", "MIG-b", "GPU-c", "GPU-d")
    found = [worker_environment(four[listed], [at], {"CUDA_VISIBLE_DEVICES": "0,1,2"}) for at in (2, 3)]
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["GPU-c", "GPU-d"]
    assert worker_environment(four, [1], {"CUDA_VISIBLE_DEVICES": "0,1,2"})["CUDA_VISIBLE_DEVICES"] == "MIG-b"
