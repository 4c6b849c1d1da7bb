from __future__ import annotations

from engine.hardware import apple


def test_an_apple_chip_is_one_device_in_the_memory_of_the_host() -> None:
    answers = {"hw.memsize": str(32 * 2**30), "machdep.cpu.brand_string": "Apple M9 Pro"}
    (device,) = apple.devices(lambda: "Darwin", lambda: "arm64", answers.get)
    assert (device.kind, device.index, device.name) == ("mps", 0, "Apple M9 Pro")
    assert device.memory_total_bytes == 32 * 2**30
    assert device.utilisation is None


def test_a_system_that_does_not_answer_is_still_a_device() -> None:
    (device,) = apple.devices(lambda: "Darwin", lambda: "arm64", lambda name: None)
    assert (device.name, device.memory_total_bytes) == (None, None)


def test_others_have_no_such_device() -> None:
    assert apple.devices(lambda: "Linux", lambda: "arm64", lambda name: "1") == ()
    assert apple.devices(lambda: "Darwin", lambda: "x86_64", lambda name: "1") == ()
