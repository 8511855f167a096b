"""The clips of a run: Video-SBI's train and val splits, in batches that keep pairs together.

The batch of `training.batch_size` clips is the batch of all processes together, dealt out in whole pairs, so the same
clips come in the same order whatever their number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from stf.config import Params, STFV8Config
from stf.data.face_clip import Reader, read_face_clip
from stf.data.pairs import PairBatchSampler, collate_clips, make_loader
from stf.data.video_sbi_dataset import VideoSBIDataset
from stf.errors import DataError
from stf.io.distributed import ALONE, World
from stf.training.step import Batch

_MAX_REMEMBERED_BYTES = 4 << 30  # FF++: 140 videos make 1.3 GiB


class BatchesOfIndices(Protocol):
    """A batch sampler: the indices of a batch's items, real, fake, real, …"""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[Any]]: ...


class RankShare:
    """The batches of `sampler`, each cut down to this process's pairs, perhaps to none (then `collate_share`).

    As many batches for every process. Rank 0 has the first pairs of each batch, rank 1 the next ones.
    """

    def __init__(self, sampler: BatchesOfIndices, world: World) -> None:
        self._sampler, self._world = sampler, world

    def __len__(self) -> int:
        return len(self._sampler)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for batch in self._sampler:
            pairs = self._world.share(len(batch) // 2)
            yield batch[2 * pairs.start : 2 * pairs.stop]


def collate_share(items: Sequence[Mapping[str, Any]]) -> Batch:
    """The items as a Batch, also of no items."""
    if items:
        return Batch(**collate_clips(items))
    return Batch(torch.empty(0), torch.empty(0, dtype=torch.long), [])


class ClipLoader:
    """A data loader that begins an epoch where it is asked to; its workers' DataErrors arrive as they were raised."""

    def __init__(self, loader: DataLoader[Any], sampler: PairBatchSampler) -> None:
        self._loader, self._sampler = loader, sampler

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """The epoch (from 0) of the next iteration, and the batch (from 0) that it begins with."""
        self._sampler.set_epoch(epoch, first_batch)

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._loader
        except DataError as error:  # torch wraps a traceback around a worker's
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].strip()) from error


class RememberedBatches:
    """Batches that are the same every epoch: the first pass asks `loader`, later ones repeat it.

    Making 24 validation pairs costs as much as an epoch's training steps. Clips (uint8 from the data set) are copied
    out of the loader's shared or pinned memory, up to `max_bytes`; beyond that the loader is asked every time.
    """

    def __init__(self, loader: Iterable[Batch], max_bytes: int = _MAX_REMEMBERED_BYTES) -> None:
        self._loader: Iterable[Batch] | None = loader
        self._max_bytes = max_bytes
        self._kept: list[Batch] = []

    def __iter__(self) -> Iterator[Batch]:
        if self._loader is None:
            yield from self._kept
            return
        kept: list[Batch] = []
        room = self._max_bytes
        for batch in self._loader:
            if room > 0:
                video = batch.video.clone()
                room -= video.nbytes
                kept.append(batch._replace(video=video))
            if room <= 0:
                kept.clear()
            yield batch
        if room > 0:
            self._kept, self._loader = kept, None  # lets the loader's workers go


def build_loaders(
    config: STFV8Config,
    params: Params,
    max_pairs: int | None = None,
    world: World = ALONE,
    reader: Reader = read_face_clip,
) -> tuple[ClipLoader, RememberedBatches, VideoSBIDataset]:
    """(training batches, validation batches, training data set); at most `max_pairs` pairs a split (a dry run).

    Batches hold what falls to this process of `world`; videos are uint8, which `to_device` turns into float32.
    Training clips are read by `reader`. Validation's are made once and remembered: no cache would help them.
    """
    make = functools.partial(
        VideoSBIDataset, config=config, data=params.data, sbi=params.sbi, seed=params.seed, as_uint8=True
    )
    loaders: list[ClipLoader] = []
    train, val = make("train", reader=reader), make("val")
    for data, shuffle in ((train, True), (val, False)):
        n_pairs = min(data.n_pairs, max_pairs or data.n_pairs)
        sampler = PairBatchSampler(n_pairs, config.batch_size, params.seed, shuffle=shuffle)
        loader = make_loader(data, RankShare(sampler, world), config.num_workers, collate_share)
        loaders.append(ClipLoader(loader, sampler))
    return loaders[0], RememberedBatches(loaders[1]), train
