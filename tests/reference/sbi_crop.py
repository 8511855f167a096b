"""Plain reference of SBI's crop rules, one side at a time, for the windows of stf.data.faces."""

from __future__ import annotations


def first_crop(points: list[tuple[float, float]], height: int, width: int) -> tuple[int, int, int, int]:
    """Returns (y0, y1, x0, x1) of the wide crop around the first 68 points."""
    xs, ys = [p[0] for p in points[:68]], [p[1] for p in points[:68]]
    face_w, face_h = max(xs) - min(xs), max(ys) - min(ys)
    return _clip(
        min(xs) - face_w / 8 * 4,
        max(xs) + face_w / 8 * 4,
        min(ys) - face_h / 2 * 2,
        max(ys) + face_h / 5 * 2,
        height,
        width,
    )


def final_crop(
    box: list[list[float]], height: int, width: int, factors: list[float]
) -> tuple[int, int, int, int]:
    """Returns (y0, y1, x0, x1) of the tight crop; factors are left, right, top, bottom."""
    (x0, y0), (x1, y1) = box
    w, h = (x1 - x0) / 4, (y1 - y0) / 4
    left, right, top, bottom = factors
    return _clip(x0 - w * left, x1 + w * right, y0 - h * top, y1 + h * bottom, height, width)


def _clip(left: float, right: float, top: float, bottom: float, height: int, width: int):
    rows = max(0, int(top)), min(height, int(bottom) + 1)
    columns = max(0, int(left)), min(width, int(right) + 1)
    return (*rows, *columns)
