"""Times variants of one piece of work in turns, and prints them as a plain table.

Every variant runs once a round, so that a busy machine slows all of them equally. Printed is the median over rounds.
CPU time counts all threads of this process and its children that have ended. Ratios use it, because wall time on a
shared machine depends on the neighbours. Memory is measured in one more run of each, outside the timing.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import resource
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from stf.io.cores import processor_name, usable_cores

WIDTH = 100  # columns
COLUMNS = ((14, "CPU median"), (14, "wall median"), (18, "by CPU time"), (13, "peak memory"))  # right-aligned
NAME_WIDTH = WIDTH - sum(width for width, _ in COLUMNS)
PER_SECOND = {"µs": 1e6, "ms": 1e3, "s": 1.0}


@dataclass(frozen=True)
class Measured:
    """One variant: medians over `repeats` runs, and its peak memory."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float  # above what the process held before; NaN if not measured or not known
    repeats: int


def interleaved(
    works: Mapping[str, Callable[[], object]], repeats: int = 5, warmup: int = 1, memory: bool = True
) -> dict[str, Measured]:
    """Runs every variant `repeats` times in turns, after `warmup` rounds that do not count.

    `memory=False` saves one run of each. Use it for work in child processes, whose memory is not measured.
    """
    for _ in range(warmup):
        for work in works.values():
            work()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(timed_s(work))
    measured = {}
    for name, work in works.items():
        wall_s, cpu_s = (statistics.median(column) for column in zip(*times[name], strict=True))
        measured[name] = Measured(name, wall_s, cpu_s, peak_mb(work) if memory else math.nan, repeats)
    return measured


def timed_s(work: Callable[[], object]) -> tuple[float, float]:
    """(wall, CPU) seconds of one run. Its result is freed after the clock has stopped."""
    wall, cpu = time.perf_counter(), _cpu_s()
    result = work()
    times = time.perf_counter() - wall, _cpu_s() - cpu
    del result
    return times


def _cpu_s() -> float:
    """CPU seconds of this process' threads and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def peak_mb(work: Callable[[], object]) -> float:
    """Peak memory of this process during `work`, in megabytes (2^20) above what it held before.

    The kernel's high-water mark of resident memory, reset first, to about 0.3 MB: tensors, arrays and the scratch
    space of libraries. Memory that malloc still holds from earlier work is returned first, or its reuse would not show.
    Not counted: child processes, GPU memory, pages never touched. NaN without Linux's /proc.
    """
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):  # not Linux, or a libc without malloc_trim
        return math.nan
    before = _status_mb("VmRSS")
    result = work()
    peak = _status_mb("VmHWM") - before
    del result
    return max(peak, 0.0)


def _status_mb(field: str) -> float:
    """A field of /proc/self/status, where it is in kB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def machine() -> str:
    """Processor, usable cores, and versions and threads of the libraries that are loaded."""
    parts = [processor_name(), f"{usable_cores()} cores", f"Python {platform.python_version()}"]
    if torch := sys.modules.get("torch"):
        parts.append(f"torch {torch.__version__} on {_threads(torch.get_num_threads())}")
        if torch.cuda.is_available():
            parts.append(torch.cuda.get_device_name())
    if cv2 := sys.modules.get("cv2"):
        parts.append(f"OpenCV {cv2.__version__} on {_threads(cv2.getNumThreads())}")
    return ", ".join(parts)


def _threads(n: int) -> str:
    return f"{n} thread" if n == 1 else f"{n} threads"


def print_table(title: str, measured: Mapping[str, Measured], reference: str, unit: str = "ms") -> None:
    """Title, machine and a row per variant, in at most 100 columns; `unit` is µs, ms or s."""
    if reference not in measured:
        raise ValueError(f"reference {reference!r} was not measured; measured: {', '.join(measured)}")
    click.echo("\n".join([*textwrap.wrap(title, WIDTH), *textwrap.wrap(machine(), WIDTH)]))
    repeats = {m.repeats for m in measured.values()}
    rounds = ", ".join(str(n) for n in sorted(repeats))
    click.echo(row(f"{rounds} runs each, in turns", [head for _, head in COLUMNS]))
    click.echo("-" * WIDTH)
    for name, m in measured.items():
        cells = [f"{_digits(seconds * PER_SECOND[unit])} {unit}" for seconds in (m.cpu_s, m.wall_s)]
        ratio = "reference" if name == reference else ratio_text(measured[reference].cpu_s, m.cpu_s)
        memory = "–" if math.isnan(m.peak_mb) else f"{_digits(m.peak_mb)} MB"
        click.echo(row(name, [*cells, ratio, memory]))
    click.echo()


def row(name: str, cells: list[str]) -> str:
    """One row of the table; a long name takes several lines."""
    lines = textwrap.wrap(name, NAME_WIDTH) or [""]
    ends = "".join(f"{cell:>{width}}" for cell, (width, _) in zip(cells, COLUMNS, strict=True))
    return "\n".join([*lines[:-1], f"{lines[-1]:<{NAME_WIDTH}}{ends}"])


def ratio_text(reference: float, other: float) -> str:
    """Speed of `other` relative to `reference`, both in seconds: "2.30 × as fast"."""
    return f"{_digits(reference / other)} × as fast"


def _digits(value: float) -> str:
    """At least three significant digits: 0.00123, 12.3, 1,234."""
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


if __name__ == "__main__":
    click.echo(machine())
