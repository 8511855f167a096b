"""The sample's bytes do not depend on the CPU: built with fewer of its instructions, every file stays the same.

Each child process is told by an environment variable to leave out what some CPUs lack, so that the libraries take the
code that they would take there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stf.sample import portable

_BUILD = """
import sys
from pathlib import Path
from stf.sample.build import SampleSpec, generate_sample
generate_sample(Path(sys.argv[1]), workers=1, spec=SampleSpec(train=0, val=0, test=2, n_frames=3))
"""
LIMITS = {
    "BLAS for another CPU": {"OPENBLAS_CORETYPE": "Nehalem"},
}


def _built(root: Path, limits: dict[str, str]) -> dict[str, bytes]:
    """Every file of two recordings and their eight fakes."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(root)], env=os.environ | limits, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "unknown" not in done.stderr.lower(), (
        done.stderr
    )  # a limit the library does not know would test nothing
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return _built(tmp_path_factory.mktemp("sample") / "here", {})


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_a_cpu_with_fewer_instructions_writes_the_same_bytes(
    here: dict[str, bytes], limits: dict[str, str], tmp_path: Path
) -> None:
    there = _built(tmp_path / "there", limits)
    assert there.keys() == here.keys()
    different = [name for name in here if here[name] != there[name]]
    assert not different, f"{len(different)} of {len(here)} files differ, among them {different[0]}"


@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos"])
def test_portable_functions_are_numpys_to_the_last_digits(name: str) -> None:
    x = np.random.default_rng(0).normal(size=10_000) * 8
    x = np.abs(x) + 1e-9 if name == "log" else x
    np.testing.assert_allclose(getattr(portable, name)(x), getattr(np, name)(x), rtol=1e-15, atol=5e-16)


def test_portable_powers() -> None:
    base = np.concatenate([[0.0, 1.0], np.random.default_rng(0).uniform(0, 3, 10_000)])
    np.testing.assert_allclose(portable.power(base, 2.2), base**2.2, rtol=1e-14)
    np.testing.assert_allclose(portable.power(np.float32(0.3), base), np.float32(0.3) ** base, rtol=1e-14)


def test_portable_algebra_is_numpys() -> None:
    rng = np.random.default_rng(0)
    matrix, right, values = rng.normal(size=(9, 9)), rng.normal(size=(9, 2)), rng.normal(size=40)
    matrix[0, 0] = 0.0  # no first pivot: rows have to change places
    np.testing.assert_allclose(portable.solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-12)
    np.testing.assert_allclose(portable.product(matrix, right), matrix @ right, rtol=1e-12)
    np.testing.assert_allclose(portable.product(matrix, right[:, 0]), matrix @ right[:, 0], rtol=1e-12)
    np.testing.assert_allclose(portable.inverse_22(matrix[:2, :2]), np.linalg.inv(matrix[:2, :2]), rtol=1e-12)
    np.testing.assert_allclose(
        portable.convolve(values, right[:, 0]), np.convolve(values, right[:, 0], "valid"), rtol=1e-9
    )
