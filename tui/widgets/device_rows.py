"""Devices as rows of text: a line or two for each beside a chart, or a table where there is room. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.contract.machine import Device, Process
from tui.host_devices import DeviceKey
from tui.mesh import Seats
from tui.text import UNKNOWN, human_bytes, human_fraction, human_unit, printable
from tui.widgets.glyphs import Glyphs, bar, history
from tui.widgets.painted import Row, fit_row, row_width, spread

HOT_CELSIUS = 85.0
"""From here on a temperature is shown as a warning; data-centre GPUs slow down at 83 to 90."""
FULL = 0.92
"""Share of memory from which on it is shown as a warning."""
TABLE_WIDTH = 104
"""Cells from which on devices are shown as a table."""
_PROCESSES_WIDTH = 60
"""Cells from which on the processes of others are listed as well."""
History = Mapping[DeviceKey, Sequence[float]]


def device_rows(
    devices: Sequence[Device], past: History, width: int, height: int, signs: Glyphs, seats: Seats | None = None
) -> list[Row]:  # fmt: skip
    """What fits of the devices into ``width`` x ``height`` cells, each as fully as there is room for.

    With ``seats`` the devices and the ranks on them are said with their places on the mesh.
    """
    if not devices:
        return [[("not measured yet", "label")]]
    if width >= TABLE_WIDTH:
        return _table(devices, past, width, height, signs, seats)
    narrow = width < _PROCESSES_WIDTH
    ranks = [row for device in devices for row in process_rows(device, width, seats, only_ranks=narrow)]
    per_device = 3 if 3 * len(devices) + len(ranks) <= height else 2 if 2 * len(devices) <= height else 1
    rows: list[Row] = []
    for device in devices:
        if per_device == 1:
            rows.append(_one_line(device, width, signs))
            continue
        rows += _two_lines(device, width, signs, _place(device, seats))
        if per_device == 3:
            rows.append([(history(list(past.get(_key(device), ())), width, signs), "train-raw")])
    rows += ranks[: max(0, height - len(rows))]
    if len(rows) > height:
        hidden = len(rows) - height + 1
        rows = [*rows[: height - 1], [(f"and {hidden} more", "label")]]
    return rows


def process_rows(
    device: Device, width: int, seats: Seats | None = None, *, only_ranks: bool = False
) -> list[Row]:  # fmt: skip
    """The processes on a device: ``rank 3  pp 1, tp 1  pid 4711  1.9 cores  512 MiB``."""
    rows: list[Row] = []
    for process in device.processes or ():
        if only_ranks and process.rank is None:
            continue
        name = f"rank {process.rank}" if process.rank is not None else _process_name(process)
        place = seats.of_rank(process.rank) if seats is not None and process.rank is not None else ""
        left: Row = [(name, "text"), *([(f"  {place}", "label")] if place else [])]
        use: Row = [] if process.cpu_fraction is None else [(f"  {process.cpu_fraction:.1f} cores", "value")]
        memory: Row = [(f"{human_bytes(process.memory_bytes):>10}", "value")]
        if place and row_width(left) + row_width(use) + row_width(memory) > width:
            use = []  # where a rank sits is said nowhere else
        number: Row = [(f"  pid {process.pid}", "label")]
        if not place or row_width(left) + row_width(number) + row_width(use) + row_width(memory) <= width:
            left += number
        rows.append(spread(left, [*use, *memory], width))
    return rows


def _process_name(process: Process) -> str:
    name = printable(process.name or "process", newlines=False)
    return f"{name} ({printable(process.owner, newlines=False)})" if process.owner else name


def device_name(device: Device) -> str:
    """``0 H100 80GB HBM3``; the maker's name is left out."""
    name = printable(device.name or device.kind, newlines=False)
    for maker in ("NVIDIA GeForce ", "NVIDIA ", "AMD ", "Intel(R) ", "Apple "):
        name = name.removeprefix(maker)
    return f"cpu {name}" if device.kind == "cpu" and device.name else f"{device.index} {name}"


def _key(device: Device) -> DeviceKey:
    return device.kind, device.index


def _memory_share(device: Device) -> float | None:
    if device.memory_used_bytes is None or not device.memory_total_bytes:
        return None
    return device.memory_used_bytes / device.memory_total_bytes


def _memory(device: Device) -> str:
    used, total = human_bytes(device.memory_used_bytes), human_bytes(device.memory_total_bytes)
    if used != UNKNOWN and used.rpartition(" ")[2] == total.rpartition(" ")[2]:
        used = used.rpartition(" ")[0]
    return f"{used}/{total}" if total != UNKNOWN else used


def _heat(device: Device, signs: Glyphs) -> tuple[str, str]:
    """Temperature with a sign beside its colour when it is high."""
    celsius = device.temperature_celsius
    if celsius is None:
        return UNKNOWN, "label"
    text = human_unit(celsius, f"{signs.degree}C".strip())
    return (f"{signs.warning}{text}", "warning") if celsius >= HOT_CELSIUS else (text, "value")


def _problem(device: Device, width: int, signs: Glyphs) -> Row:
    return fit_row([(f"{signs.error} {printable(device.problem or '', newlines=False)}", "bad")], width)


def _place(device: Device, seats: Seats | None) -> str:
    return seats.of_device(device.index) if seats is not None and device.kind != "cpu" else ""


def _named(device: Device, place: str) -> Row:
    """Index, place and name: the name gives way first, for the others are alike in it."""
    if not place:
        return [(device_name(device), "text")]
    index, _, name = device_name(device).partition(" ")
    return [(index, "text"), (f" {place}", "accent"), (f"  {name}", "label")]


def _two_lines(device: Device, width: int, signs: Glyphs, place: str) -> list[Row]:
    heat: Row = []
    if device.temperature_celsius is not None or device.power_watts is not None:
        heat = [("  ", ""), _heat(device, signs), ("  ", ""), _value(human_unit(device.power_watts, "W"))]
    head = spread(_named(device, place), heat, width)
    if device.problem:
        return [head, _problem(device, width, signs)]
    tail: Row = [_value(f"{human_fraction(device.utilisation):>6}"), ("  ", ""), _memory_piece(device, signs)]
    filled, rest = bar(device.utilisation, max(3, width - row_width(tail)), signs)
    return [head, [(filled, "bar"), (rest, "bar-rest"), *tail]]


def _one_line(device: Device, width: int, signs: Glyphs) -> Row:
    label = "cpu" if device.kind == "cpu" else f"{device.index:>3}"
    if device.problem:
        return [(f"{label} ", "text"), *_problem(device, width - 4, signs)]
    tail: Row = [
        _value(f"{human_fraction(device.utilisation):>6}"), _value(f"{human_bytes(device.memory_used_bytes):>10}"),
    ]  # fmt: skip
    filled, rest = bar(device.utilisation, max(3, width - 4 - row_width(tail)), signs)
    return [(f"{label} ", "text"), (filled, "bar"), (rest, "bar-rest"), *tail]


def _value(text: str) -> tuple[str, str]:
    return text, "label" if text.strip() == UNKNOWN else "value"


def _memory_piece(device: Device, signs: Glyphs) -> tuple[str, str]:
    share = _memory_share(device)
    full = share is not None and share >= FULL
    text = _memory(device)
    return (f"{signs.warning}{text}", "warning") if full else _value(text)


def _table(
    devices: Sequence[Device], past: History, width: int, height: int, signs: Glyphs, seats: Seats | None
) -> list[Row]:  # fmt: skip
    names = [_named(device, _place(device, seats)) for device in devices]
    name_width = min(34, max(row_width(name) for name in names) + 1, width // 3)
    graph = max(0, width - name_width - 66)
    titles = f"{'device':<{name_width}} {'busy':<16}   {'memory':<23} {'temp':>6} {'power':>13}  "
    rows: list[Row] = [fit_row([(titles + f"{'last minutes':>{graph}}", "label")], width)]
    for device, known in zip(devices, names, strict=True):
        name = fit_row(known, name_width)
        if device.problem:
            rows.append([*name, (" ", ""), *_problem(device, width - name_width - 1, signs)])
            continue
        busy, busy_rest = bar(device.utilisation, 10, signs)
        held, held_rest = bar(_memory_share(device), 6, signs)
        heat, heat_style = _heat(device, signs)
        rows.append([
            *name, (" ", ""), (busy, "bar"), (busy_rest, "bar-rest"),
            _value(f"{human_fraction(device.utilisation):>6}"), ("   ", ""), (held, "bar"), (held_rest, "bar-rest"),
            (" ", ""), *fit_row([_memory_piece(device, signs)], 16), (f" {heat:>6}", heat_style),
            _value(f" {_power(device):>13}"), ("  ", ""),
            (history(list(past.get(_key(device), ())), graph, signs), "train-raw"),
        ])  # fmt: skip
        rows += [[("  ", ""), *_throttle(device, signs)]] if device.throttle_reasons else []
    for device in devices:
        if device.processes:
            rows += [[], [(device_name(device), "label")]]
            rows += [[("  ", ""), *row] for row in process_rows(device, min(width - 2, 70), seats)]
    if len(rows) > height:
        rows = [*rows[: height - 1], [(f"and {len(rows) - height + 1} more lines", "label")]]
    return rows


def _power(device: Device) -> str:
    if device.power_watts is None:
        return UNKNOWN
    limit = device.power_limit_watts
    return f"{device.power_watts:.0f} / {limit:.0f} W" if limit else human_unit(device.power_watts, "W")


def _throttle(device: Device, signs: Glyphs) -> Row:
    reasons = ", ".join(printable(reason, newlines=False) for reason in device.throttle_reasons or ())
    return [(f"{signs.warning} clock held down: {reasons}", "warning")]
