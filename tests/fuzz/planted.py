"""Readers with a deliberate fault, one for each kind of failure that the fuzzer must detect."""

from __future__ import annotations

import os
import pickle
import time

from stf.errors import DataError
from tests.fuzz.kinds import Kind, Place, Rng
from tests.fuzz.payloads import payload


def _make(rng: Rng, place: Place) -> None:
    (place.case / "input").write_bytes(rng.bytes(8))


def _make_pickle(rng: Rng, place: Place) -> None:
    (place.case / "input").write_bytes(pickle.dumps(payload(rng, place.canary)))


def _traceback(place: Place) -> None:
    int((place.case / "input").read_bytes().hex() + "!")


def _nonsense(place: Place) -> None:
    assert not (place.case / "input").read_bytes()


def _hang(_: Place) -> None:
    time.sleep(3600)


def _memory(_: Place) -> None:
    bytearray(64 << 30)


def _crash(_: Place) -> None:
    os.abort()


def _outside_write(place: Place) -> None:
    (place.case.parent.parent / "planted").write_text("x", encoding="utf-8")


def _long_message(place: Place) -> None:
    raise DataError(f"{place.case} is wrong\n" * 3)


def _code(place: Place) -> None:
    pickle.loads((place.case / "input").read_bytes())


# name → the column in which the fuzzer must count it
PLANTED = {
    "planted traceback": "tracebacks", "planted nonsense": "tracebacks", "planted hang": "hangs",
    "planted memory": "tracebacks", "planted crash": "tracebacks", "planted message": "tracebacks",
    "planted write": "outside writes", "planted code": "code run",
}  # fmt: skip
KINDS = (
    Kind("planted traceback", _make, _traceback),
    Kind("planted nonsense", _make, _nonsense),
    Kind("planted hang", _make, _hang),
    Kind("planted memory", _make, _memory),
    Kind("planted crash", _make, _crash),
    Kind("planted message", _make, _long_message),
    Kind("planted write", _make, _outside_write),
    Kind("planted code", _make_pickle, _code),
)
