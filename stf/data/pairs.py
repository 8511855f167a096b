"""Batches that keep the two members of a Video-SBI pair together, and the loader that feeds them.

Shapes: B clips, C channels, T frames, H and W pixels. Index 2i is the real and 2i + 1 the fake of pair i.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stf.errors import ConfigError
from stf.io.workers import settle_worker

EpochIndex = tuple[int, int]


class PairBatchSampler(Sampler[list[EpochIndex]]):
    """A batch sampler of (epoch, index): each batch holds whole pairs, real, fake, real, …

    Drawn clip by clip, one batch of 4 in 8 would hold a single class, nothing to compare. The order depends
    on (seed, epoch) alone, so that a split over ranks can deal the same global batches out.
    Raises ConfigError for an odd batch size or an empty data set.
    """

    def __init__(
        self, n_pairs: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False
    ) -> None:
        if n_pairs < 1:
            raise ConfigError(
                "there are no pairs to sample; the split holds no usable video (run verify_data)"
            )
        if batch_size < 2 or batch_size % 2:
            raise ConfigError(
                f"batch_size is {batch_size} clips; pairs stay together, so it must be even and ≥ 2"
            )
        if drop_last and n_pairs < batch_size // 2:
            raise ConfigError(f"{n_pairs} pairs fill no batch of {batch_size} clips; lower batch_size")
        self.n_pairs, self.pairs_per_batch = n_pairs, batch_size // 2
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.epoch, self.first_batch = 0, 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The epoch that the next iteration shuffles for and hands to the data set, and the batch it begins with."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        whole, rest = divmod(self.n_pairs, self.pairs_per_batch)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        epoch = self.epoch
        order = np.arange(self.n_pairs)
        if self.shuffle:
            order = np.random.default_rng(np.random.SeedSequence([self.seed, epoch])).permutation(
                self.n_pairs
            )
        for batch in range(self.first_batch, len(self)):
            pairs = order[batch * self.pairs_per_batch : (batch + 1) * self.pairs_per_batch].tolist()
            yield [(epoch, 2 * pair + member) for pair in pairs for member in (0, 1)]


def collate_clips(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{'video': uint8 or float32 (B, 3, T, H, W) as the items, 'label': int64 (B,), 'provenance': list of B}."""
    # default_collate writes a worker's batch straight into shared memory; torch.stack would copy it once more
    video_BCTHW = torch.utils.data.default_collate([item["video"] for item in items])
    labels_B = torch.tensor([item["label"] for item in items], dtype=torch.long)
    return {"video": video_BCTHW, "label": labels_B, "provenance": [item["provenance"] for item in items]}


def as_floats(video_BCTHW: Tensor) -> Tensor:
    """uint8 clips as float32 in [0, 1], on their device: bit for bit the data set's float items; floats as they are."""
    return video_BCTHW.float().mul_(1 / 255) if video_BCTHW.dtype == torch.uint8 else video_BCTHW


def start_loader_worker(worker_id: int) -> None:
    """One thread, for several workers with a pool each would fight for the same cores; deaf but for the parent.

    Ctrl-C and a spot machine's SIGTERM reach every process at once, but the trainer needs its clips to end its step and
    keep its state. Workers leave with it: when it says so, or when they find it gone.
    """
    settle_worker()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def make_loader(
    dataset: Dataset[dict[str, Any]],
    sampler: Iterable[Sequence[Any]],
    num_workers: int,
    collate: Callable[[Sequence[Mapping[str, Any]]], Any] = collate_clips,
) -> DataLoader[dict[str, Any]]:
    """A loader over the batches of `sampler`: the same clips in the same order for any `num_workers`."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  any iterable with a length will do
        num_workers=num_workers,
        # per worker one batch in the making and one ready: a batch whose draws failed takes twice as long. More would
        # only cost memory: 16 clips of 224 px are 77 MB, so 8 workers hold 1.2 GB in /dev/shm
        prefetch_factor=2 if num_workers else None,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_loader_worker,
        pin_memory=torch.cuda.is_available(),
        # a generator of its own: otherwise each epoch's iterator would draw from torch's global stream, and
        # dropout would depend on how often a loader was opened
        generator=torch.Generator(),
    )
