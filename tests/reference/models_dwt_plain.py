"""PyWavelets' own 3-D transform, one clip and channel at a time: what stf.models.dwt_3d must equal."""

import itertools

import numpy as np
import pywt


def bands(x_BTHWC: np.ndarray) -> dict[str, np.ndarray]:
    """{"LLL": …, …, "HHH": …} by pywt.dwtn; its keys name the axes t, y, x with a = low, d = high."""
    B, _, _, _, C = x_BTHWC.shape
    by_name: dict[str, list] = {}
    for b, c in itertools.product(range(B), range(C)):
        for key, band in pywt.dwtn(x_BTHWC[b, ..., c], "sym2", mode="periodization").items():
            by_name.setdefault(key.replace("a", "L").replace("d", "H"), []).append(band)
    return {k: np.moveaxis(np.reshape(v, (B, C, *v[0].shape)), 1, -1) for k, v in by_name.items()}


def inverse(bands_by_name: dict[str, np.ndarray]) -> np.ndarray:
    """(B, T, H, W, C) from the eight bands."""
    keyed = {k.replace("L", "a").replace("H", "d"): v for k, v in bands_by_name.items()}
    return pywt.idwtn(keyed, "sym2", mode="periodization", axes=(1, 2, 3))


def energies(x_BTHWC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hll_energy, all_band_energy) from all eight bands, the first and last coefficient in time left out."""
    kept = {name: band[:, 1:-1] for name, band in bands(x_BTHWC).items()}
    n = kept["HLL"][0].size
    total = sum((band**2).sum((1, 2, 3, 4)) for band in kept.values())
    return np.sqrt((kept["HLL"] ** 2).sum((1, 2, 3, 4)) / n), total / n
