"""Peak memory of a piece of work, for the benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch


def peak_mb(work: Callable[[], object]) -> float:
    """Most megabytes of CPU tensors that torch held at once during `work`, beyond what was there before."""
    with torch.profiler.profile(profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(itertools.accumulate(changes)) / 2**20
