"""One process per item: results, deaths, errors, and no process left behind."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path

import pytest

from stf.errors import DataError
from stf.preprocess.isolated import Died, orphaned, run_isolated


def act(folder: Path, item: str) -> str:
    (folder / f"{item}-{os.getpid()}").touch()
    if item == "refused":
        raise DataError("this one is refused")
    if item == "dies":
        os._exit(9)
    if item.startswith("sleeps"):
        time.sleep(60)
    return item.upper()


def processes(folder: Path) -> list[int]:
    return [int(path.name.split("-")[-1]) for path in folder.iterdir()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("n_workers", [1, 3])
def test_every_item_has_a_result_or_a_death(n_workers: int, tmp_path: Path) -> None:
    items = ["a", "dies", "b", "c", "d"]
    results = list(run_isolated(functools.partial(act, tmp_path), items, n_workers, 60))
    assert {r for r in results if isinstance(r, str)} == {"A", "B", "C", "D"}
    assert [r for r in results if isinstance(r, Died)] == [Died("dies", "the process died (exit code 9)")]
    assert len(set(processes(tmp_path))) == 5
    assert os.getpid() not in processes(tmp_path)
    if n_workers == 1:
        assert [r.item if isinstance(r, Died) else r for r in results] == ["A", "dies", "B", "C", "D"]


def test_a_time_limit_ends_only_its_own_item(tmp_path: Path) -> None:
    began = time.monotonic()
    results = list(run_isolated(functools.partial(act, tmp_path), ["sleeps", "a"], 1, 1))
    assert results == [Died("sleeps", "took longer than 1 s and was stopped"), "A"]
    assert time.monotonic() - began < 50  # the item sleeps for 60 s


def test_an_error_ends_all_processes(tmp_path: Path) -> None:
    running = run_isolated(functools.partial(act, tmp_path), ["sleeps1", "refused", "never"], 2, 60)
    with pytest.raises(DataError, match="this one is refused"):
        list(running)
    assert not any(alive(pid) for pid in processes(tmp_path))
    assert not list(tmp_path.glob("never*"))


def test_closing_the_generator_ends_all_processes(tmp_path: Path) -> None:
    running = run_isolated(functools.partial(act, tmp_path), ["a", "sleeps1", "sleeps2"], 2, 60)
    assert next(running) == "A"
    running.close()
    assert not any(alive(pid) for pid in processes(tmp_path))


def test_an_interrupt_ends_all_running_processes(tmp_path: Path) -> None:
    began = time.monotonic()

    def interrupt() -> None:
        if time.monotonic() > began + 1:
            raise DataError("interrupted")

    with pytest.raises(DataError, match="interrupted"):
        list(
            run_isolated(functools.partial(act, tmp_path), ["sleeps1", "sleeps2", "never"], 2, 60, interrupt)
        )
    assert time.monotonic() < began + 50
    assert len(processes(tmp_path)) == 2
    assert not any(alive(pid) for pid in processes(tmp_path))


def test_no_items_need_no_process(tmp_path: Path) -> None:
    assert list(run_isolated(functools.partial(act, tmp_path), [], 4, 60)) == []


def test_a_process_detects_that_its_parent_is_gone() -> None:
    assert not orphaned(os.getppid())
    assert orphaned(os.getpid())
