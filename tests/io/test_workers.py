"""Work spread over processes: results in order, errors raised here, memory reused by workers with further items."""

from __future__ import annotations

import resource
import sys

import numpy as np
import pytest

from stf.errors import DataError
from stf.io.workers import parallel_map, settle_worker


def power(exponent: int, base: int) -> int:
    if base == 13:
        raise DataError("13 is refused")
    return base**exponent


@pytest.mark.parametrize("n_workers", [0, 1, 2])
@pytest.mark.parametrize("chunksize", [0, 1])
def test_results_come_in_the_order_of_the_items(n_workers: int, chunksize: int) -> None:
    assert [*parallel_map(power, range(7), n_workers, 2, chunksize=chunksize)] == [i * i for i in range(7)]
    with pytest.raises(DataError, match="13 is refused"):
        [*parallel_map(power, [1, 13, 2], n_workers, 2, chunksize=chunksize)]


def page_faults_of_later_clips(_: int) -> int:
    settle_worker()
    np.ones((64, 400, 400, 3), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones((64, 400, 400, 3), np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_a_settled_worker_keeps_its_memory() -> None:
    faults = [*parallel_map(page_faults_of_later_clips, range(2), 2)]
    assert max(faults) < 2000  # 3 × 30.7 MB anew would be 22,500 pages
