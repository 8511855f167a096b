"""Draws docs/images/sample_pairs.jpg: Video-SBI pairs of the built-in synthetic sample.

    python scripts/sample_pairs.py

T frames, H, W pixels, C = RGB.
"""

from __future__ import annotations

from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from stf.config import Params, STFV8Config
from stf.data.video_sbi_dataset import Pair, VideoSBIDataset
from stf.io.outputs import write_bytes

PICTURE = "docs/images/sample_pairs.jpg"
PAIRS = (0, 10)  # of the validation split: one blend is obvious, one is not
FRAMES = (0, 4, 8, 11)
FACE_PX, GAP_PX, LABEL_PX = 128, 4, 52
TILE_PX = FACE_PX + GAP_PX
JPEG_QUALITY = 90


def tiles(pair: Pair) -> list[tuple[str, NDArray[np.uint8]]]:
    """(label, frames (T, H, W, 3) RGB) of the pair's three rows."""
    mask_THWC = np.repeat(pair.mask[..., None], 3, axis=-1)
    rows = {
        "real": pair.real.transpose(1, 2, 3, 0),
        "fake": pair.fake.transpose(1, 2, 3, 0),
        "mask": mask_THWC,
    }
    return [(label, np.round(255 * frames).astype(np.uint8)) for label, frames in rows.items()]


def draw(dataset: VideoSBIDataset, pairs: tuple[int, ...]) -> NDArray[np.uint8]:
    """A white sheet (H, W, 3), RGB: the pairs side by side, each with rows real, fake and mask over FRAMES."""
    block_px = len(FRAMES) * TILE_PX + 2 * GAP_PX
    sheet = np.full((3 * TILE_PX + GAP_PX, LABEL_PX + len(pairs) * block_px, 3), 255, np.uint8)
    for i, pair in enumerate(pairs):
        for row, (label, frames_THWC) in enumerate(tiles(dataset.pair(0, pair))):
            y = GAP_PX + row * TILE_PX
            cv2.putText(
                sheet, label, (4, y + FACE_PX // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
            )
            for column, t in enumerate(FRAMES):
                x = LABEL_PX + i * block_px + column * TILE_PX
                sheet[y : y + FACE_PX, x : x + FACE_PX] = frames_THWC[t]
    return sheet


@click.command()
@click.option(
    "--params", "params_path", default="params.yaml", show_default=True, type=click.Path(dir_okay=False)
)
@click.option("--output", default=PICTURE, show_default=True, type=click.Path(dir_okay=False, path_type=Path))
def main(params_path: str, output: Path) -> None:
    """Draw real/fake pairs of the validation split with their blend masks.

    Needs the sample (python -m pipeline.verify_data generates it). Do not publish a picture of real people's faces.
    """
    params = Params.load(params_path)
    config = STFV8Config.from_params(params)
    config.img_size = FACE_PX
    dataset = VideoSBIDataset("val", config, data=params.data, sbi=params.sbi, seed=params.seed)
    sheet = draw(dataset, PAIRS)
    ok, encoded = cv2.imencode(".jpg", sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not ok:
        raise click.ClickException(f"OpenCV cannot encode {output}")
    write_bytes(output, encoded.tobytes())
    click.echo(f"wrote {output}, {len(encoded) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
