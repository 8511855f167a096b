"""Shares, exchanges and errors of several processes; torchrun itself is in test_torchrun.py."""

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
def test_shares_are_all_in_order_and_differ_by_one_at_most(size: int, n: int) -> None:
    shares = [list(range(n))[World(rank, size).share(n)] for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)  # rank 0 has something if anybody has


@SIZES
@pytest.mark.parametrize("n", [0, 1, 2, 5, 7, 12])
def test_what_is_dealt_comes_back_in_order(size: int, n: int) -> None:
    def part(world: World) -> list[int]:
        return world.in_order([10 * i for i in world.dealt(range(n))])

    assert play(size, part) == [[10 * i for i in range(n)]] * size


@SIZES
def test_everybody_gets_everybodys_value(size: int) -> None:
    assert play(size, lambda world: world.exchange(world.rank**2)) == [[r**2 for r in range(size)]] * size
    assert play(size, lambda world: world.from_main(lambda: world.rank)) == [0] * size


def test_alone_nothing_is_sent_and_no_process_group_is_made() -> None:
    with open_world() as world:
        assert world is ALONE
        things = [1, 2]
        assert world.dealt(things) is things
        assert world.in_order(things) is things
        assert world.exchange(things)[0] is things
        assert things[world.share(2)] == things


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_of_one_is_an_error_of_all_and_rank_0_raises_it(failing: int) -> None:
    def part(world: World) -> object:
        try:
            world.exchange("a step")
            if world.rank == failing:
                raise DataError("a torn picture")
            return world.exchange("another step")
        except DataError as error:
            if world.rank == failing:
                world.ended = False
                world._gather((error, None))  # what _leave does first
            return str(error)

    assert play(3, part) == ["a torn picture"] * 3


def test_different_files_are_named_with_the_process_that_has_them() -> None:
    with pytest.raises(UsageError, match="the fingerprint is b for process 1 and a for process 0"):
        play(2, lambda world: world.require_same("the fingerprint", "ab"[world.rank]))
    assert play(2, lambda world: world.require_same("the fingerprint", "a")) == [None, None]


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "", "9" * 5000])
def test_a_wrong_number_of_processes_is_refused(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    monkeypatch.setenv("STF_NPROC", wanted)
    with pytest.raises(UsageError, match="STF_NPROC"), open_processes():
        pass


def test_a_caller_that_cannot_be_started_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STF_NPROC", "2")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(UsageError, match="torchrun"), open_processes():
        pass


def test_processes_that_do_not_find_each_other_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(PeerError, match="did not find each other.*MASTER_ADDR"), open_world():
        pass
