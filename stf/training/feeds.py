"""The clips of a run: Video-SBI's train and val splits, in batches that keep pairs together."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from stf.config import Params, STFV8Config
from stf.data.face_clip import Reader, read_face_clip
from stf.data.video_sbi_dataset import PairBatchSampler, VideoSBIDataset, make_loader
from stf.errors import DataError
from stf.io.distributed import ALONE, World
from stf.training.distributed import RankShare, collate_share
from stf.training.loop import Batches, Feeds
from stf.training.step import Batch
from stf.training.validation import RememberedBatches


def build_feeds(
    config: STFV8Config,
    params: Params,
    max_pairs: int | None = None,
    world: World = ALONE,
    reader: Reader = read_face_clip,
) -> tuple[Feeds, VideoSBIDataset]:
    """(loaders, training data set); at most `max_pairs` pairs of each split when given (a dry run).

    Batches hold what falls to this process of `world`; videos are uint8, which `to_device` turns into float32.
    Training clips are read by `reader`. Validation's are made once and remembered: no cache would help them.
    """
    make = functools.partial(
        VideoSBIDataset, config=config, data=params.data, sbi=params.sbi, seed=params.seed, as_uint8=True
    )
    train, val = make("train", reader=reader), make("val")
    n_train, n_val = (min(data.n_pairs, max_pairs or data.n_pairs) for data in (train, val))
    sampler = PairBatchSampler(n_train, config.batch_size, params.seed, shuffle=True)
    val_sampler = PairBatchSampler(n_val, config.batch_size, params.seed, shuffle=False)
    train_batches, val_batches = (
        OneLineErrors(make_loader(data, RankShare(batches, world), config.num_workers, collate_share))
        for data, batches in ((train, sampler), (val, val_sampler))
    )
    return Feeds(train_batches, sampler.set_epoch, RememberedBatches(val_batches)), train


class OneLineErrors:
    """A loader whose workers' DataErrors arrive as they were raised; torch wraps a traceback around them."""

    def __init__(self, loader: Batches) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from self._loader
        except DataError as error:
            raise DataError(str(error).rpartition(f"{DataError.__name__}: ")[2].strip()) from error
