"""The data loader from disk to float32 tensors, clips/s from PNG and from the face cache: python -m benchmarks.loader

Without --root it generates 1280×720 videos with faces 200 px wide, in about 10 s. All of Video-SBI's features are on.
Rates use wall time, because workers and consumer overlap: compare rows of one run, on an idle machine.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as pipeline.cli does, before numpy is loaded

import click
import cv2
import torch

from benchmarks.harness import interleaved, machine, peak_mb, print_table
from benchmarks.hd_videos import write_tree
from stf.config import QUALITIES, DataParams, SbiParams, STFV8Config
from stf.data.cache.build import build_video, estimate
from stf.data.cache.face_cache import FaceCache
from stf.data.face_clip import Reader, read_face_clip
from stf.data.pairs import PairBatchSampler, as_floats, make_loader
from stf.data.video_sbi_dataset import VideoSBIDataset

FFPP_TRAINING_FRAMES = 720 * 510


class Bench:
    """Data sets of the same videos, read from PNG or from a face cache that is built here."""

    def __init__(self, root: Path, data: DataParams, folder: Path) -> None:
        self.config = dataclasses.replace(
            STFV8Config.phase_a(), data_root=str(root), num_frames=data.num_frames, img_size=data.img_size
        )
        self.data = data
        self.videos = self.dataset(read_face_clip).videos
        self.cache = FaceCache.for_data(folder, data, "0" * 64)
        started = time.process_time()
        with self.cache.locked():
            self.built = [build_video(self.cache, video) for video in self.videos]
        self.build_s = time.process_time() - started

    def dataset(self, reader: Reader, as_uint8: bool = True) -> VideoSBIDataset:
        """The training split, two pairs a video."""
        data = dataclasses.replace(self.data, train_pairs_per_video=2)
        sbi = SbiParams(tps_probability=1.0, compression_probability=1.0)
        return VideoSBIDataset("train", self.config, data=data, sbi=sbi, as_uint8=as_uint8, reader=reader)

    def epoch(self, reader: Reader, num_workers: int, batch_size: int, as_uint8: bool) -> Callable[[], float]:
        """A function that reads the data once and returns clips/s."""
        dataset = self.dataset(reader, as_uint8)
        sampler = PairBatchSampler(dataset.n_pairs, batch_size, seed=0, shuffle=False)
        loader = make_loader(dataset, sampler, num_workers)

        def work() -> float:
            sampler.set_epoch(sampler.epoch + 1)
            batches = iter(loader)
            n_clips, started = 0, time.perf_counter()
            for batch in batches:
                n_clips += len(as_floats(batch["video"]))
            return n_clips / (time.perf_counter() - started)

        return work


def print_cache(bench: Bench) -> None:
    """Bytes and milliseconds a frame, and what FF++'s training videos would take."""
    planned = estimate(bench.cache, bench.videos, 1, lambda done, total: None)
    frame_bytes, frame_s = planned.n_bytes / planned.n_frames, bench.build_s / planned.n_frames
    core_minutes = FFPP_TRAINING_FRAMES * frame_s / 60
    click.echo(f"face cache: {frame_bytes / 1e3:.0f} kB and {1e3 * frame_s:.1f} ms CPU a frame to build")
    click.echo(
        f"720 training videos of 510 such frames: {FFPP_TRAINING_FRAMES * frame_bytes / 1e9:.0f} GB, "
        f"{core_minutes:.0f} core-minutes, {core_minutes / 8:.0f} minutes on 8 cores (computed)\n"
    )


def print_reads(bench: Bench, repeats: int) -> None:
    """Reading one clip's frames and geometry, from either source."""
    video, n = bench.videos[0], bench.config.num_frames
    works = {
        "PNG": lambda: read_face_clip(video, 0, n, False),
        "PNG, mirrored": lambda: read_face_clip(video, 0, n, True),
        "face cache": lambda: bench.cache.read(video, 0, n, False),
        "face cache, mirrored": lambda: bench.cache.read(video, 0, n, True),
    }
    print_table(f"First crop of {n} frames", interleaved(works, repeats), "PNG")


def print_rates(bench: Bench, batch_size: int, repeats: int) -> None:
    """Clips/s through the data loader; sources take turns."""
    click.echo(f"Data loader, batches of {batch_size} clips, to float32 on the CPU\n{machine()}")
    variants = {
        f"{source}, {num_workers} workers, {'uint8' if as_uint8 else 'float32'}": bench.epoch(
            reader, num_workers, batch_size, as_uint8
        )
        for num_workers in (0, 2)
        for source, reader, as_uint8 in (
            ("PNG", read_face_clip, True),
            ("cache", bench.cache.read, True),
            ("cache", bench.cache.read, False),
        )
    }
    rates: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, work in variants.items():
            rates[name].append(work())
    for name, values in rates.items():
        memory = f", peak {peak_mb(variants[name]):,.0f} MB in this process" if " 0 " in name else ""
        click.echo(f"{name:<28}{sorted(values)[len(values) // 2]:>7.2f} clips/s{memory}")
    click.echo()


def print_arrival(bench: Bench, batch_size: int, repeats: int) -> None:
    """The cost of a batch beyond making its clips: a worker's copy into shared memory."""
    items = {
        name: bench.dataset(bench.cache.read, name == "uint8")[0]["video"] for name in ("float32", "uint8")
    }

    def collate(name: str) -> torch.Tensor:
        shared = torch.empty((batch_size, *items[name].shape), dtype=items[name].dtype).share_memory_()
        return torch.stack([items[name]] * batch_size, out=shared)

    works = {
        "float32": lambda: collate("float32"),
        "uint8": lambda: collate("uint8"),
        "uint8, then float32 on a CPU": lambda: as_floats(collate("uint8")),
    }
    sizes = " or ".join(f"{batch_size * items[name].nbytes / 1e6:.0f} MB of {name}" for name in items)
    print_table(
        f"A batch of {batch_size} clips into shared memory: {sizes}", interleaved(works, repeats), "float32"
    )


@click.command()
@click.option(
    "--root",
    type=click.Path(exists=True, path_type=Path),
    help="Folder that holds FaceForensics++/; generated if not given.",
)
@click.option("--quality", default="c23", show_default=True, type=click.Choice(QUALITIES))
@click.option("--frames", default=32, show_default=True, help="Frames per clip.")
@click.option("--img-size", default=224, show_default=True)
@click.option("--batch-size", default=4, show_default=True, help="Clips per batch.")
@click.option("--repeats", default=1, show_default=True)
def main(root: Path | None, quality: str, frames: int, img_size: int, batch_size: int, repeats: int) -> None:
    """Time the data loader from PNG and from the face cache, and print the cache's size."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if root is None:
            root = folder / "data"
            write_tree(root, frames=frames + 2, height=720, width=1280, face=200.0, quality=quality)
        data = DataParams(root=str(root), quality=quality, num_frames=frames, img_size=img_size)
        bench = Bench(root, data, folder / "cache")
        print_cache(bench)
        print_reads(bench, max(3, repeats))
        print_arrival(bench, 16, max(3, repeats))
        print_rates(bench, batch_size, repeats)


if __name__ == "__main__":
    main()
