"""Batches that keep the two members of a Video-SBI pair together, and the data loader over them.

Shapes: B clips, C channels, T frames, H and W pixels. Index 2i is the real and 2i + 1 the fake of pair i.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stf.errors import ConfigError
from stf.io.workers import settle_worker

EpochIndex = tuple[int, int]


class PairBatchSampler(Sampler[list[EpochIndex]]):
    """A batch sampler of (epoch, index): each batch consists of whole pairs, real, fake, real, …

    If clips were drawn one by one, one in eight batches of 4 would contain a single class and nothing to compare.
    The order depends on (seed, epoch) alone, so ranks can divide the same global batches among themselves.
    Raises ConfigError for an odd batch size, an empty data set, or fewer pairs than one batch needs.
    """

    def __init__(
        self, n_pairs: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool = False
    ) -> None:
        if n_pairs < 1:
            raise ConfigError(
                "there are no pairs to sample: the split contains no usable video; run verify_data"
            )
        if batch_size < 2 or batch_size % 2:
            raise ConfigError(
                f"batch_size is {batch_size} clips; it must be even and at least 2, because pairs stay together"
            )
        if drop_last and n_pairs < batch_size // 2:
            raise ConfigError(
                f"an epoch has {n_pairs} pairs, which do not fill one batch of {batch_size} clips; lower "
                "training.batch_size or raise data.train_pairs_per_video"
            )
        self.n_pairs, self.pairs_per_batch = n_pairs, batch_size // 2
        self.seed, self.shuffle, self.drop_last = seed, shuffle, drop_last
        self.epoch, self.first_batch = 0, 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Sets the epoch of the next iteration, passed to the data set with each index, and the batch it starts at."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self) -> int:
        full, rest = divmod(self.n_pairs, self.pairs_per_batch)
        return full + (rest > 0 and not self.drop_last)

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
    """Stacks items into {'video': uint8 or float32 (B, 3, T, H, W), 'label': int64 (B,), 'provenance': list of B}."""
    # default_collate writes a worker's batch directly into shared memory; torch.stack would need another copy
    video_BCTHW = torch.utils.data.default_collate([item["video"] for item in items])
    labels_B = torch.tensor([item["label"] for item in items], dtype=torch.long)
    return {"video": video_BCTHW, "label": labels_B, "provenance": [item["provenance"] for item in items]}


def as_floats(video_BCTHW: Tensor) -> Tensor:
    """Converts uint8 clips to float32 in [0, 1], bit for bit the data set's float items; floats pass unchanged."""
    return video_BCTHW.float().mul_(1 / 255) if video_BCTHW.dtype == torch.uint8 else video_BCTHW


def _without_lost_connections(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Prints an uncaught error, unless a parent that ended broke the connection: then it has said why itself.

    multiprocessing's thread that hands tensors to the parent reports here what it meets.
    """
    if not isinstance(error, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def start_loader_worker(worker_id: int) -> None:
    """Initialises a worker process: one thread, and no reaction to signals except SIGTERM from its parent.

    One thread, because the thread pools of several workers would compete for the same cores. Ctrl-C and the SIGTERM of
    a spot machine reach every process at once, but the trainer still needs clips to finish its step and save its state.
    A worker exits when its parent tells it to or is gone.
    """
    settle_worker()
    torch.set_num_threads(1)
    sys.excepthook = _without_lost_connections
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_parents_sigterm, daemon=True).start()


def _exit_on_parents_sigterm() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def make_loader(
    dataset: Dataset[dict[str, Any]],
    sampler: Iterable[Sequence[Any]],
    num_workers: int,
    collate: Callable[[Sequence[Mapping[str, Any]]], Any] = collate_clips,
) -> DataLoader[dict[str, Any]]:
    """Returns a data loader over the batches of `sampler`: the same clips in the same order for any `num_workers`."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,  # pyright: ignore[reportArgumentType]  any iterable with a length works
        num_workers=num_workers,
        # per worker, one batch in progress and one ready: a batch with rejected draws takes twice as long. More would
        # only cost memory: 16 clips of 224 px are 77 MB, so 8 workers use 1.2 GB of /dev/shm
        prefetch_factor=2 if num_workers else None,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        worker_init_fn=start_loader_worker,
        pin_memory=torch.cuda.is_available(),
        # its own generator: otherwise each epoch's iterator would draw from torch's global generator, and dropout
        # would depend on how often a loader was opened
        generator=torch.Generator(),
    )
