"""Pictures that a training run leaves in MLflow: sample pairs, and where the network sees flicker.

C channels, T frames, H, W pixels; T', H', W' the coarser grid of the HLL band.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_INCH = 1.9
_DIFFERENCE_GAIN = 4.0
_DPI = 120


class PairLike(Protocol):
    """A Video-SBI pair at the network's input size: float32 (3, T, H, W) in [0, 1] and mask (T, H, W)."""

    @property
    def real(self) -> NDArray[Any]: ...
    @property
    def fake(self) -> NDArray[Any]: ...
    @property
    def mask(self) -> NDArray[Any]: ...
    @property
    def provenance(self) -> Any: ...


def pairs_figure(pairs: Sequence[PairLike]) -> Figure:
    """A row per pair: real, fake, mask and |difference| × 4 of the middle frame."""
    figure = Figure(figsize=(4 * _INCH, len(pairs) * _INCH), dpi=_DPI, layout="constrained")
    axes = figure.subplots(len(pairs), 4, squeeze=False)
    for row, pair in zip(axes, pairs, strict=True):
        t = pair.mask.shape[0] // 2
        real_HWC, fake_HWC = (clip[:, t].transpose(1, 2, 0) for clip in (pair.real, pair.fake))
        difference_HWC = np.clip(np.abs(fake_HWC - real_HWC) * _DIFFERENCE_GAIN, 0, 1)
        for axis, image in zip(row, (real_HWC, fake_HWC, pair.mask[t], difference_HWC), strict=True):
            axis.imshow(image, vmin=0, vmax=1, cmap="gray")
            axis.set(xticks=[], yticks=[])
        qp = pair.provenance.qp
        row[0].set_ylabel(
            f"{pair.provenance.video_id}, {'no codec' if qp is None else f'QP {qp}'}", fontsize=7
        )
    for axis, title in zip(axes[0], ("real", "fake", "mask × ratio", "difference × 4"), strict=True):
        axis.set_title(title, fontsize=8)
    return figure


def hll_figure(
    clips_BCTHW: NDArray[Any], maps_BTHW: NDArray[Any], titles: Sequence[str], scores: Sequence[float]
) -> Figure:
    """A row per clip: its middle frame, then |HLL| at four moments, on one colour scale for all clips."""
    columns = np.linspace(0, maps_BTHW.shape[1] - 1, min(4, maps_BTHW.shape[1])).round().astype(int)
    figure = Figure(figsize=((1 + len(columns)) * _INCH, len(titles) * _INCH), layout="constrained")
    axes = figure.subplots(len(titles), 1 + len(columns), squeeze=False)
    top = float(maps_BTHW.max())
    for i, row in enumerate(axes):
        row[0].imshow(clips_BCTHW[i][:, clips_BCTHW.shape[2] // 2].transpose(1, 2, 0), vmin=0, vmax=1)
        row[0].set_ylabel(f"{titles[i]}\nP(fake) {scores[i]:.2f}", fontsize=7)
        for axis, t in zip(row[1:], columns, strict=True):
            axis.imshow(maps_BTHW[i, t], vmin=0, vmax=top, cmap="magma")
            axis.set_title(f"|HLL|, t' = {t}", fontsize=7)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    return figure
