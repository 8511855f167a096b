"""Writes synthetic 1280×720 videos in the FF++ layout, to time FF++'s size: python -m benchmarks.hd_videos OUT

stf/sample/hd.py describes them.
"""

from __future__ import annotations

from pathlib import Path

import click

from stf.config import QUALITIES
from stf.sample.hd import FACE_PX, SPLITS, write_tree

__all__ = ["main", "write_tree"]


@click.command()
@click.argument("out", type=click.Path(exists=False, path_type=Path))
@click.option("--frames", default=64, show_default=True, help="Frames per video.")
@click.option("--height", default=720, show_default=True)
@click.option("--width", default=1280, show_default=True)
@click.option("--face", default=FACE_PX, show_default=True, help="Width of the landmarks in pixels.")
@click.option("--quality", default="c23", show_default=True, type=click.Choice(QUALITIES))
def main(out: Path, frames: int, height: int, width: int, face: float, quality: str) -> None:
    """Write six videos under OUT, which must not exist; about 420 MB by default."""
    write_tree(out, frames=frames, height=height, width=width, face=face, quality=quality)
    click.echo(f"wrote {sum(SPLITS.values())} videos of {frames} frames of {width}x{height} px to {out}")


if __name__ == "__main__":
    main()
