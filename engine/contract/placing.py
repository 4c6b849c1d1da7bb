"""Which devices a layout takes, and how large each of its axes is."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from engine.contract.errors import Problem
from engine.contract.limits import divisors
from engine.contract.machine import Machine
from engine.contract.pipelines import DEFAULT_SCHEDULE, usual_virtual_stages
from engine.contract.spec import LayoutSpec, Strategy

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""From the outermost to the innermost: neighbours in tp have neighbouring ranks."""
LEAST_CPU_WORKERS = 8
"""So many workers may share a CPU with fewer cores when they are asked for: a layout can be tried out anywhere."""

_FREE: dict[Strategy, str] = {
    "ddp": "dp_replicate", "fsdp": "dp_shard", "zero2": "dp_shard", "tensor": "tp", "pipeline": "pp",
}  # fmt: skip
"""The axis that takes what the others leave over, by strategy."""

Sizes = dict[str, int]


def given_sizes(wanted: LayoutSpec) -> Sizes:
    """The sizes that a person decided; a list of stages decides ``pp``. Senseless ones count as not given."""
    sizes = {axis: size for axis in AXES if (size := getattr(wanted, axis)) is not None and size >= 1}
    virtual = wanted.virtual_stages or usual_virtual_stages(wanted.schedule or DEFAULT_SCHEDULE)
    if "pp" not in sizes and wanted.stages and virtual >= 1 and len(wanted.stages) % virtual == 0:
        sizes["pp"] = len(wanted.stages) // virtual
    return sizes


def device_indices(wanted: LayoutSpec, kind: str, machine: Machine) -> tuple[int, ...] | Problem:
    """The devices of each host that ``wanted`` means, all hosts being like ``machine``."""
    slots = machine.slots(kind)
    if slots == 0:
        found = ", ".join(sorted({device.kind for device in machine.devices})) or "nothing"
        return Problem(
            field="layout.accelerator",
            message=f"this machine has no usable {kind} device",
            hint=f'found: {found}; set layout.accelerator = "auto", and see `traindeck devices`',
        )
    if kind == "cpu":
        present = tuple(range(max(slots, LEAST_CPU_WORKERS)))
        what = "CPU worker slots"
    else:
        present = tuple(device.index for device in machine.of_kind(kind))
        what = f"{kind} devices"
    devices = wanted.devices
    if isinstance(devices, tuple) and devices:
        missing = [index for index in devices if index not in present]
        if not missing:
            return devices
        named = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
        return Problem(
            field="layout.devices",
            message=f"there is no device {named} among the {what}",
            hint="present: " + ", ".join(map(str, present)),
        )
    asked = isinstance(devices, int) and devices >= 1
    count = devices if asked and isinstance(devices, int) else _default_count(wanted, kind, slots, len(present))
    if count > len(present):
        return _too_many(wanted, count, len(present), what, asked)
    return present[:count]


def _default_count(wanted: LayoutSpec, kind: str, slots: int, present: int) -> int:
    """Devices of each host where none are named: all accelerators; on the CPU as many workers as the sizes need.

    A strategy that wants more than the sizes give takes a worker for each core.
    """
    if wanted.strategy == "single":
        return 1
    if kind != "cpu":
        return present
    sizes = given_sizes(wanted)
    hosts = len(wanted.hosts or ("",))
    needed = -(-prod(sizes.values()) // hosts)
    if wanted.strategy in {"auto", "hybrid"} or not _free_axes(wanted.strategy, sizes):
        return needed
    least = 2 if prod(sizes.values()) > 1 else 1
    return needed * max(least, slots // max(1, needed))


def _too_many(wanted: LayoutSpec, count: int, present: int, what: str, asked: bool) -> Problem:
    where = "this machine has" if len(wanted.hosts or ("",)) == 1 else "each host has"
    sizes = given_sizes(wanted)
    if asked or not sizes:
        message = f"{count} devices are asked for, and {where} {present} {what}"
        return Problem(field="layout.devices", message=message, hint=f"use at most {present}")
    message = f"{spelled(sizes)} needs {count} devices, and {where} {present} {what}"
    return Problem(field=f"layout.{_largest(sizes)}", message=message, hint=f"use at most {present} in all")


def spelled(sizes: Mapping[str, int]) -> str:
    """Sizes as people write them: ``pp = 2 x tp = 4``; those of 1 only where there is nothing else."""
    shown = [f"{axis} = {size}" for axis, size in sizes.items() if size > 1]
    return " x ".join(shown) or "one rank"


def _largest(sizes: Mapping[str, int]) -> str:
    """The axis that a person would look at first; of equal ones the outermost."""
    return max(sizes, key=lambda axis: sizes[axis])


def solve_axes(wanted: LayoutSpec, per_host: int) -> Sizes | list[Problem]:
    """The size of every axis such that they multiply to the devices of all hosts, ``per_host`` on each."""
    total = per_host * len(wanted.hosts or ("",))
    sizes = given_sizes(wanted)
    if wanted.strategy == "single":
        return _single(sizes, per_host, total)
    free = _free_axes(wanted.strategy, sizes)
    product = prod(sizes.values())
    if total % product or (not free and total != product):
        return [_mismatch(wanted, sizes, total, free)]
    rest = total // product
    if len(free) == 2:
        replicate = _replicas(rest, per_host // (sizes.get("tp", 1) * sizes.get("cp", 1)), total // per_host)
        sizes |= {"dp_replicate": replicate, "dp_shard": rest // replicate}
    elif free:
        sizes[free[0]] = rest
    problem = _too_few(wanted, sizes, total)
    if problem is not None:
        return [problem]
    return {axis: sizes.get(axis, 1) for axis in AXES}


def _free_axes(strategy: Strategy, sizes: Sizes) -> list[str]:
    """The axes that take what is left over."""
    if strategy == "hsdp":
        return [axis for axis in ("dp_replicate", "dp_shard") if axis not in sizes]
    if strategy in _FREE:
        return [axis for axis in (_FREE[strategy],) if axis not in sizes]
    left_out = [axis for axis in AXES if axis not in sizes]
    if "dp_replicate" in left_out:
        return ["dp_replicate"]
    return left_out if len(left_out) == 1 else []


def _replicas(rest: int, shards_of_a_host: int, hosts: int) -> int:
    """Replicas of HSDP over ``rest`` ranks: one for each host if that is possible, else as few as can be."""
    if hosts > 1 and 1 < shards_of_a_host < rest and rest % shards_of_a_host == 0:
        return rest // shards_of_a_host
    factors = divisors(rest, rest)
    return factors[1] if len(factors) > 1 else 1


def _single(sizes: Sizes, per_host: int, total: int) -> Sizes | list[Problem]:
    problems = [
        Problem(
            field=f"layout.{axis}",
            message=f"'single' is one rank, and {axis} = {size} makes {size}",
            hint=f"leave {axis} out, or choose 'hybrid'",
        )
        for axis, size in sizes.items()
        if size > 1
    ]
    if per_host > 1:
        message = f"'single' cannot use {per_host} devices"
        problems.append(Problem(field="layout.strategy", message=message, hint="choose 'ddp'"))
    elif total > 1:
        message = f"'single' cannot use {total} hosts"
        problems.append(Problem(field="layout.strategy", message=message, hint="choose 'ddp', or leave hosts out"))
    return problems or dict.fromkeys(AXES, 1)


def _mismatch(wanted: LayoutSpec, sizes: Sizes, total: int, free: list[str]) -> Problem:
    """Sizes and devices that do not go together; the remedy names numbers that do."""
    product = prod(sizes.values())
    chosen = f"{total} {'is' if total == 1 else 'are'} chosen"
    shown = {axis: size for axis, size in sizes.items() if size > 1} or sizes
    devices = "devices" if product > 1 else "device"
    hosts = len(wanted.hosts or ("",))
    if free and product < total:
        message = f"{spelled(sizes)} does not divide {total} devices"
    else:
        message = f"{spelled(sizes)} needs {product} {devices}, and {chosen}"
    axis = _largest(shown)
    others = product // sizes[axis] if sizes else 1
    hints = []
    if sizes and total % others == 0 and len(choices := divisors(total // others, total)) > 1:
        fitting = choices if free else choices[-1:]
        if fitting != [sizes[axis]]:
            hints.append(
                f"choose {axis} from {', '.join(map(str, fitting[:12]))}" if free else f"set {axis} = {fitting[0]}"
            )
    if not free and total % product == 0:
        spare = next((name for name in ("dp_replicate", "dp_shard", "tp", "cp", "pp") if name not in sizes), None)
        if spare is not None:
            hints.append(f"add {spare} = {total // product}")
    # Without a number of devices all are chosen already: more of them cannot be the remedy.
    least = product * 2 ** (len(free) if wanted.strategy not in {"auto", "hybrid"} else 0)
    if least % hosts == 0 and (wanted.devices is not None if product > total else not free):
        hints.append(f"set layout.devices = {least // hosts}")
    field = f"layout.{axis}" if sizes else "layout.devices"
    return Problem(field=field, message=message, hint=", or ".join(hints) or "leave one of the sizes out")


def _too_few(wanted: LayoutSpec, sizes: Sizes, total: int) -> Problem | None:
    """A named strategy whose own axis would have one rank."""
    axes = ("dp_replicate", "dp_shard") if wanted.strategy == "hsdp" else (_FREE.get(wanted.strategy, ""),)
    if all(sizes.get(axis, 2) > 1 for axis in axes):
        return None
    others = prod(size for axis, size in sizes.items() if axis not in axes)
    least = others * prod(max(2, sizes.get(axis, 2)) for axis in axes)
    why = f"{total} {'is' if total == 1 else 'are'} chosen"
    if wanted.devices is None and wanted.hosts is None:
        why = f"there {'is' if total == 1 else 'are'} {total} here"
    narrow = [f"{axis} = 1" for axis in axes if getattr(wanted, axis) == 1]
    if narrow:
        why = f"{' and '.join(narrow)} is asked for"
    other = "'fsdp'" if wanted.strategy == "hsdp" and total > 1 else "'auto' or 'single'" if total == 1 else "'auto'"
    return Problem(
        field="layout.strategy",
        message=f"'{wanted.strategy}' needs at least {least} devices or CPU workers, and {why}",
        hint=f"choose {other}",
    )
