"""The clips of a run: Video-SBI's train and val splits, in batches that keep pairs together.

A batch of `training.batch_size` clips is the batch of all processes together, divided among them in whole pairs: the
same clips in the same order for any number of processes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from stf.config import Params, STFV8Config
from stf.data.face_clip import Reader, read_face_clip
from stf.data.pairs import EpochIndex, PairBatchSampler, collate_clips, make_loader
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import ConfigError, DataError
from stf.io.distributed import ALONE, World
from stf.training.step import Batch

_MAX_REMEMBERED_BYTES = 4 << 30  # FF++: 140 videos make 1.3 GiB


def require_whole_pairs(batch_size: int, n_processes: int) -> None:
    """Raises ConfigError when a batch of `batch_size` clips is not the same number of pairs for every process."""
    step = 2 * n_processes
    if batch_size % step:
        below = batch_size // step * step
        sizes = f"{below} or {below + step}" if below else str(step)
        raise ConfigError(
            f"training.batch_size is {batch_size} clips for {n_processes} processes; each needs the same number of "
            f"real/fake pairs, so it must be a multiple of {step}. Set it to {sizes}, or start fewer processes"
        )


class RankBatches:
    """This process's part of each batch of `sampler`: the first pairs for rank 0, the next ones for rank 1, …"""

    def __init__(self, sampler: PairBatchSampler, world: World) -> None:
        self._sampler, self._world = sampler, world

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[list[EpochIndex]]:
        n = 2 * self._sampler.pairs_per_batch // self._world.size
        for batch in self._sampler:
            yield batch[self._world.rank * n :][:n]


def collate_batch(items: Sequence[Mapping[str, Any]]) -> Batch:
    """The items as a Batch."""
    return Batch(**collate_clips(items))


class ClipLoader:
    """A data loader that starts an epoch at any batch; its workers' DataErrors arrive as they were raised."""

    def __init__(self, loader: DataLoader[Any], sampler: PairBatchSampler) -> None:
        self._loader, self._sampler = loader, sampler

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The epoch (from 0) of the next iteration, and the batch (from 0) that it starts with."""
        self._sampler.set_epoch(epoch, first_batch)

    @property
    def dropped_clips(self) -> int:
        """Clips of an epoch that do not fill a batch, in all processes together."""
        return 2 * (self._sampler.n_pairs % self._sampler.pairs_per_batch)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._loader
        except DataError as error:  # torch wraps a traceback around a worker's
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].strip()) from error


class RememberedBatches:
    """Batches that are the same every epoch: the first pass reads `loader`, later ones repeat it from memory.

    Making 24 validation pairs costs as much as an epoch's training steps. Clips (uint8 from the data set) are copied
    out of the loader's shared or pinned memory, up to `max_bytes`; beyond that `loader` is read every time.
    """

    def __init__(self, loader: Iterable[Batch], max_bytes: int = _MAX_REMEMBERED_BYTES) -> None:
        self._loader: Iterable[Batch] | None = loader
        self._max_bytes = max_bytes
        self._batches: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            yield from self._batches
            return
        batches: list[Batch] = []
        free_bytes = self._max_bytes
        for batch in self._loader:
            if free_bytes > 0:
                video = batch.video.clone()
                free_bytes -= video.nbytes
                batches.append(batch._replace(video=video))
            if free_bytes <= 0:
                batches.clear()
            yield batch
        if free_bytes > 0:
            self._batches, self._loader = batches, None  # ends the loader's workers


def build_loaders(
    config: STFV8Config,
    params: Params,
    max_pairs: int | None = None,
    world: World = ALONE,
    reader: Reader = read_face_clip,
) -> tuple[ClipLoader, RememberedBatches, VideoSBIDataset]:
    """(training batches, validation batches, training data set); at most `max_pairs` pairs a split (a dry run).

    Batches hold this process's clips; videos are uint8, which `to_device` turns into float32. Training drops a last
    batch that is not full; validation has every clip, in whole batches of one process's size, so that processes may
    have different numbers of them. Training clips are read by `reader`; validation clips are made once and remembered,
    so a cache would not help. Raises ConfigError when the training pairs of an epoch do not fill a batch.
    """
    make_dataset = functools.partial(
        VideoSBIDataset, config=config, data=params.data, sbi=params.sbi, seed=params.seed, as_uint8=True
    )
    train_set, val_set = make_dataset("train", reader=reader), make_dataset("val")
    n_train, n_val = (min(data.n_pairs, max_pairs or data.n_pairs) for data in (train_set, val_set))
    train_sampler = PairBatchSampler(n_train, config.batch_size, params.seed, shuffle=True, drop_last=True)
    val_sampler = PairBatchSampler(n_val, config.batch_size // world.size, params.seed, shuffle=False)
    train = make_loader(train_set, RankBatches(train_sampler, world), config.num_workers, collate_batch)
    val = make_loader(val_set, world.shard(list(val_sampler)), config.num_workers, collate_batch)
    return ClipLoader(train, train_sampler), RememberedBatches(ClipLoader(val, val_sampler)), train_set
