"""How several processes share values and errors; torchrun itself is in test_torchrun.py."""

from __future__ import annotations

import sys

import pytest

from stf.errors import DataError, PeerError, UsageError
from stf.io.distributed import ALONE, World, open_world
from stf.io.processes import open_processes
from tests.reference.worlds import play

SIZES = pytest.mark.parametrize("size", [1, 2, 3, 7])


@SIZES
@pytest.mark.parametrize("n", [0, 1, 2, 5, 7, 12])
def test_results_of_shards_come_back_in_order(size: int, n: int) -> None:
    def part(world: World) -> list[int]:
        return world.unshard([10 * i for i in world.shard(range(n))])

    assert play(size, part) == [[10 * i for i in range(n)]] * size


@SIZES
def test_every_process_gets_every_value(size: int) -> None:
    assert play(size, lambda world: world.all_gather(world.rank**2)) == [[r**2 for r in range(size)]] * size
    assert play(size, lambda world: world.broadcast(lambda: world.rank)) == [0] * size


def test_a_single_process_sends_nothing_and_makes_no_process_group() -> None:
    with open_world() as world:
        assert world is ALONE
        items = [1, 2]
        assert world.shard(items) is items
        assert world.unshard(items) is items
        assert world.all_gather(items)[0] is items
        with pytest.raises(DataError), world.synchronized():
            raise DataError("a torn picture")


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_one_process_is_raised_in_all(failing: int) -> None:
    def part(world: World) -> object:
        try:
            world.all_gather("a step")
            if world.rank == failing:
                raise DataError("a torn picture")
            return world.all_gather("another step")
        except DataError as error:
            if world.rank == failing:
                world.ended = False
                world._gather((error, None))  # what _leave does first
            return str(error)

    assert play(3, part) == ["a torn picture"] * 3


def test_different_values_are_reported_with_the_process_that_has_them() -> None:
    with pytest.raises(UsageError, match="the fingerprint is b for process 1 and a for process 0"):
        play(2, lambda world: world.require_same("the fingerprint", "ab"[world.rank]))
    assert play(2, lambda world: world.require_same("the fingerprint", "a")) == [None, None]


@pytest.mark.parametrize("count", ["0", "-1", "two", "", "9" * 5000])
def test_a_wrong_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, count: str) -> None:
    monkeypatch.setenv("STF_NPROC", count)
    with pytest.raises(UsageError, match="STF_NPROC"), open_processes():
        pass


def test_a_command_that_torchrun_cannot_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STF_NPROC", "2")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(UsageError, match="torchrun"), open_processes():
        pass


def test_processes_that_cannot_connect_are_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(PeerError, match="cannot connect to each other.*MASTER_ADDR"), open_world():
        pass
