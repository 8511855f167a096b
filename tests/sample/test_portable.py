"""The sample's bytes do not depend on the CPU: generated with fewer CPU instructions, every file is the same.

An environment variable makes the libraries of each child process ignore instructions that some CPUs lack, so that they
use the same code as on such a CPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from stf.sample import exact, portable

# H.264 would hide most differences of one grey level, so the child's camera skips it. The child also writes the maps of
# a head and a rendering before rounding to grey levels.
_BUILD = """
import sys
from pathlib import Path
import numpy as np
from stf.sample import build as sample
from stf.sample import take
root = Path(sys.argv[1])
take.h264 = sample.h264 = lambda frames, crf: frames
spec = sample.SampleSpec(train=0, val=0, test=2, n_frames=2)
sample.generate_sample(root, workers=1, spec=spec)
job = sample._jobs(root, 0, spec)[0]
head, acting = sample._head(0, "000"), sample._acting(job, "000")
staging = take.draw_staging(np.random.default_rng(0), 2)
light, pose = staging.light(0), staging.pose(0, 57.0, (92.0, 76.0))
drawn = take.render(head, pose, acting.at(0), light, head.visibility(light.towards), (152, 184))
for name in ("albedo_alpha", "normal_gloss", "surface", "depth", "occlusion"):
    np.save(root / name, getattr(head, name))
np.save(root / "colour", drawn.colour_HWC)
"""
LIMITS = {
    "BLAS for another CPU": {"OPENBLAS_CORETYPE": "Nehalem"},
    "NumPy without AVX-512": {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    "NumPy without AVX2": {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR"},
    "OpenCV without AVX2": {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3", "OPENCV_IPP": "sse42"},
    "OpenCV without IPP": {"OPENCV_IPP": "disabled"},
}


def _generate(root: Path, limits: dict[str, str]) -> dict[str, bytes]:
    """Generates two recordings, their eight fakes and the intermediate maps; returns all files."""
    completed = subprocess.run(
        [sys.executable, "-c", _BUILD, str(root)], env=os.environ | limits, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    # a limit that the library does not know would test nothing
    assert "unknown" not in completed.stderr.lower(), completed.stderr
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """All files as generated with the full instruction set."""
    return _generate(tmp_path_factory.mktemp("sample") / "full", {})


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_a_cpu_with_fewer_instructions_writes_the_same_bytes(
    expected: dict[str, bytes], limits: dict[str, str], tmp_path: Path
) -> None:
    limited = _generate(tmp_path / "limited", limits)
    assert limited.keys() == expected.keys()
    different = [name for name in expected if expected[name] != limited[name]]
    assert not different, f"{len(different)} of {len(expected)} files differ, among them {different[0]}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos"])
def test_portable_functions_equal_numpys_to_the_last_digits(name: str, dtype: type) -> None:
    x = (np.random.default_rng(0).normal(size=10_000) * 8).astype(dtype)
    x = np.abs(x) + dtype(1e-6) if name == "log" else x
    value, epsilon = getattr(portable, name)(x), np.finfo(dtype).eps
    assert value.dtype == dtype
    np.testing.assert_allclose(value, getattr(np, name)(x), rtol=5 * epsilon, atol=5 * epsilon)


def test_portable_powers() -> None:
    base = np.concatenate([[0.0, 1.0], np.random.default_rng(0).uniform(0, 3, 10_000)])
    np.testing.assert_allclose(portable.power(base, 2.2), base**2.2, rtol=1e-14)
    single = base.astype(np.float32)
    assert portable.power(single, 2.2).dtype == portable.power(np.float32(0.3), single).dtype == np.float32
    np.testing.assert_allclose(portable.power(single, 1 / 2.2), single ** np.float32(1 / 2.2), rtol=1e-5)
    np.testing.assert_allclose(
        portable.power(np.float32(0.3), -single), np.float32(0.3) ** -single, rtol=1e-5
    )


def test_portable_angles() -> None:
    y, x = np.random.default_rng(0).normal(size=(2, 10_000))
    x[:4], y[:4] = (0, 0, 1, -1), (1, -1, 0, 0)
    np.testing.assert_allclose(portable.arctan2(y, x), np.arctan2(y, x), rtol=1e-15, atol=1e-15)


def test_portable_algebra_equals_numpys() -> None:
    rng = np.random.default_rng(0)
    matrix, right, values = rng.normal(size=(9, 9)), rng.normal(size=(9, 2)), rng.normal(size=40)
    matrix[0, 0] = 0.0  # the first pivot is 0, so rows must be swapped
    np.testing.assert_allclose(portable.solve(matrix, right), np.linalg.solve(matrix, right), rtol=1e-12)
    np.testing.assert_allclose(portable.product(matrix, right), matrix @ right, rtol=1e-12)
    np.testing.assert_allclose(portable.product(matrix, right[:, 0]), matrix @ right[:, 0], rtol=1e-12)
    np.testing.assert_allclose(portable.inverse_22(matrix[:2, :2]), np.linalg.inv(matrix[:2, :2]), rtol=1e-12)
    np.testing.assert_allclose(
        portable.convolve(values, right[:, 0]), np.convolve(values, right[:, 0], "valid"), rtol=1e-9
    )


@pytest.mark.parametrize("sigma", [0.45, 0.85, 2.2, 9.0])
def test_the_exact_blur_equals_opencvs(sigma: float) -> None:
    picture = np.random.default_rng(0).random((60, 70, 3), dtype=np.float32)
    blurred = exact.gaussian_blur(picture, sigma)
    assert blurred.dtype == np.float32
    np.testing.assert_allclose(blurred, cv2.GaussianBlur(picture, (0, 0), sigma), atol=5e-4)
    np.testing.assert_array_equal(exact.gaussian_blur(np.full((20, 20), 255.0), sigma), 255)


@pytest.mark.parametrize("shape", [(20, 17), (33, 41, 3)])
def test_the_exact_enlargement_equals_opencvs(shape: tuple[int, ...]) -> None:
    picture = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = cv2.resize(picture, (90, 110), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(exact.enlarge(picture, 110, 90), expected, atol=1e-5)


def test_the_exact_cubic_lookup_equals_opencvs_except_for_rounding() -> None:
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    x, y = rng.uniform(-3, 73, (60, 70)).astype(np.float32), rng.uniform(-3, 63, (60, 70)).astype(np.float32)
    expected = cv2.remap(frame, x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    difference = np.abs(exact.cubic_lookup(frame, x, y) - expected)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3


def test_the_exact_distance_is_euclidean() -> None:
    inside = np.ones((9, 9), np.uint8)
    inside[0, 0] = 0
    rows, columns = np.mgrid[:9, :9]
    np.testing.assert_array_equal(exact.distance_inside(inside), np.hypot(rows, columns).astype(np.float32))
