"""A clip's soft masks in one pass: hull → affine, elastic, TPS, drift → softening → the crop's pixels.

Softening first resizes the mask to a grid of 192 to 256 cells a side. So each cell's position is traced back through
drift, TPS, elastic and affine to the hull, and the hull is interpolated once, there, instead of once per warp at the
crop's size. Only cells that the moved hull can reach are computed. The displacements vary on a scale of about 7 px:
they are summed at the elastic keys' nodes, 3 px apart, and interpolated linearly (error below .1 px).

T frames, H, W pixels of the first crop, h, w cells, n, m nodes, N landmarks. A position is (x, y) in the crop's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stf.data.augment.drift import DriftPath
from stf.data.augment.region import bounding_window, grow
from stf.data.augment.tps import TPSDraw, influence_on, overshoot
from stf.data.augment.warps import AffineDraw, ElasticDraw, pixel_grid, warp_image
from stf.data.blend import BlendDraw, blur, erode, hull_patch
from stf.data.faces import Points, Window, bounds

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class MaskDraw:
    """All draws that decide one clip's masks."""

    hull_of_68: bool
    affine: AffineDraw
    elastic: ElasticDraw
    tps: TPSDraw | None
    drift: DriftPath
    blend: BlendDraw


def soft_masks(hulls: Points, draw: MaskDraw, region: Window) -> NDArray[np.uint8]:
    """Returns the soft masks × blend ratio in 1/255, uint8 (T, height, width of the region); 0 selects the target.

    `hulls` are the landmarks of all frames, (T, N, 2), or (1, N, 2) for a hull that does not follow the face.
    """
    elastic, soft = draw.elastic, draw.blend.soft
    patches = [hull_patch(points_N2, elastic.height, elastic.width, draw.hull_of_68) for points_N2 in hulls]
    warp = _Warp.for_hulls(bounds(hulls.reshape(-1, 2)), draw)
    y0, y1, x0, x1 = warp.cells
    sharp_hw = np.zeros((soft.height, soft.width), np.uint8)
    whole_HW = np.empty((elastic.height, elastic.width), np.uint8)
    out = np.empty((elastic.n_frames, region[1] - region[0], region[3] - region[2]), np.uint8)
    for t in range(len(out)):
        patch_hw, corner = patches[t % len(patches)]
        sharp_hw[y0:y1, x0:x1] = erode(warp_image(patch_hw, warp.positions(t, corner)), soft)
        cv2.resize(_soften(sharp_hw, draw.blend), whole_HW.shape[::-1], dst=whole_HW)
        out[t] = whole_HW[region[0] : region[1], region[2] : region[3]]
    return out


def _soften(eroded_hw: NDArray[np.uint8], draw: BlendDraw) -> NDArray[np.uint8]:
    """Returns the blurred mask × ratio in 1/255, its maximum at the ratio; computes only where the blur reaches."""
    y0, y1, x0, x1 = grow(bounding_window(eroded_hw), draw.soft.blur_kernel // 2 + 1, *eroded_hw.shape)
    soft_hw, peak = blur(eroded_hw[y0:y1, x0:x1], draw.soft)
    out_hw = np.zeros(eroded_hw.shape, np.uint8)
    out_hw[y0:y1, x0:x1] = cv2.convertScaleAbs(soft_hw, alpha=255 * draw.ratio / peak)
    return out_hw


@dataclass(frozen=True, eq=False)
class _Warp:
    """Maps the cells of a window of the softening grid back to the hull's picture, before all warps."""

    cells: Window  # all cells that the moved hull can reach
    base_hw2: Floats  # the cells' positions without displacement and drift
    displacements_Tnm2: Floats  # by TPS and elastic, at the nodes around the cells, in the hull's pixels
    drift_T2: NDArray[np.float64]  # in the hull's pixels
    node_of_cell_T23: NDArray[np.float64]  # cell of the window → node, with each frame's drift subtracted

    @classmethod
    def for_hulls(cls, bounds_4: NDArray[np.float64], draw: MaskDraw) -> _Warp:
        """Computes the warp for hulls within these bounds (x0, y0, x1, y1)."""
        elastic, drift_T2 = draw.elastic, draw.drift.offsets_T2
        size_2 = np.array([elastic.width, elastic.height])
        matrix_23 = draw.affine.matrix(elastic.height, elastic.width)
        scale_2, shift_2 = matrix_23.diagonal(), matrix_23[:, 2]
        tps_px = 0.0 if draw.tps is None else overshoot() * float(np.abs(draw.tps.displacements_TP2).max())
        reach_px = tps_px + elastic.reach_px
        low_2 = bounds_4[:2] * scale_2 + shift_2 - reach_px
        high_2 = bounds_4[2:] * scale_2 + shift_2 + reach_px
        nodes_2 = np.array(elastic.keys_Khw2.shape[2:0:-1])
        nodes = _grid_window(low_2 - tps_px, high_2 + tps_px, nodes_2 / size_2, nodes_2)
        cells_2 = np.array([draw.blend.soft.width, draw.blend.soft.height])
        cells = _grid_window(low_2 + drift_T2.min(0), high_2 + drift_T2.max(0), cells_2 / size_2, cells_2)
        positions_hw2 = (
            pixel_grid(cells[1] - cells[0], cells[3] - cells[2]) + np.array((cells[2], cells[0])) + 0.5
        )
        positions_hw2 = positions_hw2 * (size_2 / cells_2) - 0.5
        base_hw2 = ((positions_hw2 - shift_2) / scale_2).astype(np.float32)
        step_2 = nodes_2 / cells_2
        starts_2 = (np.array([cells[2], cells[0]]) + 0.5) * step_2 - 0.5 - (nodes[2], nodes[0])
        node_of_cell_T23 = np.zeros((len(drift_T2), 2, 3))
        node_of_cell_T23[:, (0, 1), (0, 1)] = step_2
        node_of_cell_T23[:, :, 2] = starts_2 - drift_T2 * (nodes_2 / size_2)
        return cls(
            cells, base_hw2, _displacements(draw, nodes, scale_2), drift_T2 / scale_2, node_of_cell_T23
        )

    def positions(self, t: int, corner: tuple[int, int]) -> Floats:
        """Returns (h, w, 2), the positions of frame t's cells in the hull's picture, relative to its pixel `corner`."""
        offset = (*(-self.drift_T2[t] - corner).tolist(), 0.0, 0.0)
        displacement_nm2 = cv2.add(self.displacements_Tnm2[t], offset)  # pyright: ignore  its stubs know no scalars
        height, width = self.base_hw2.shape[:2]
        positions_hw2 = cv2.warpAffine(
            displacement_nm2,
            self.node_of_cell_T23[t],
            (width, height),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return np.asarray(cv2.add(positions_hw2, self.base_hw2, dst=positions_hw2), np.float32)


def _grid_window(
    low_2: NDArray[np.float64],
    high_2: NDArray[np.float64],
    per_px_2: NDArray[np.float64],
    grid_2: NDArray[np.integer],
) -> Window:
    """Returns the window of a grid over the picture that covers low to high plus one cell on each side."""
    first_2 = np.floor((low_2 + 0.5) * per_px_2 - 0.5).astype(int) - 1
    last_2 = np.ceil((high_2 + 0.5) * per_px_2 - 0.5).astype(int) + 2
    (x0, y0), (x1, y1) = np.clip(first_2, 0, grid_2 - 1).tolist(), np.clip(last_2, 1, grid_2).tolist()
    return y0, max(y1, y0 + 1), x0, max(x1, x0 + 1)


def _displacements(draw: MaskDraw, nodes: Window, scale_2: NDArray[np.float64]) -> Floats:
    """Returns (T, n, m, 2), the displacements at a window of the nodes, divided by the affine's scale.

    TPS, plus the elastic displacement sampled at the position that TPS moves to.
    """
    y0, y1, x0, x1 = nodes
    elastic, scale = draw.elastic, scale_2.astype(np.float32)
    keys_Knm2 = elastic.keys_Khw2[:, y0:y1, x0:x1] / scale
    weights_TK = elastic.weights_TK()
    keys_Kx = keys_Knm2.astype(np.float32).reshape(len(keys_Knm2), -1)
    elastic_Tnm2: Floats = (weights_TK @ keys_Kx).reshape(-1, *keys_Knm2.shape[1:])
    if draw.tps is None:
        return elastic_Tnm2
    n_rows, n_columns = elastic.keys_Khw2.shape[1:3]
    in_nodes = np.array([n_columns / elastic.width, n_rows / elastic.height], np.float32)
    influence_nmP = influence_on(n_rows, n_columns)[y0:y1, x0:x1]
    moves_TP2 = draw.tps.displacements_TP2.astype(np.float32)
    moves_Tnm2 = _interpolate(influence_nmP, moves_TP2 / scale)
    steps_Tnm2 = _interpolate(influence_nmP, moves_TP2 * in_nodes)
    grid_nm2 = pixel_grid(y1 - y0, x1 - x0)
    for t, steps_nm2 in enumerate(steps_Tnm2):
        moves_Tnm2[t] += warp_image(elastic_Tnm2[t], steps_nm2 + grid_nm2, cv2.BORDER_REPLICATE)
    return moves_Tnm2


def _interpolate(influence_nmP: Floats, moves_TP2: Floats) -> Floats:
    """Returns (T, n, m, 2), the control points' moves interpolated at the nodes; one matrix product for x and y."""
    n_rows, n_columns, n_points = influence_nmP.shape
    both_P2nm2 = np.zeros((n_points, 2, n_rows, n_columns, 2), np.float32)
    for axis in (0, 1):
        both_P2nm2[:, axis, :, :, axis] = influence_nmP.transpose(2, 0, 1)
    product = moves_TP2.reshape(len(moves_TP2), -1) @ both_P2nm2.reshape(2 * n_points, -1)
    return product.reshape(-1, n_rows, n_columns, 2)
