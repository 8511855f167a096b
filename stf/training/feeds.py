"""The clips of a run: Video-SBI's train and val splits, in batches that keep pairs together."""

from __future__ import annotations

from collections.abc import Iterator

from stf.config import Params, STFV8Config
from stf.data.video_sbi_dataset import PairBatchSampler, VideoSBIDataset, make_loader
from stf.errors import DataError
from stf.training.fit import Batches, Feeds
from stf.training.step import Batch
from stf.training.validation import RememberedBatches


def build_feeds(
    config: STFV8Config, params: Params, max_pairs: int | None = None
) -> tuple[Feeds, VideoSBIDataset]:
    """(loaders, training data set); at most `max_pairs` pairs of each split when given (a dry run)."""
    train = VideoSBIDataset("train", config, data=params.data, sbi=params.sbi, seed=params.seed)
    val = VideoSBIDataset("val", config, data=params.data, sbi=params.sbi, seed=params.seed)
    n_train, n_val = (min(data.n_pairs, max_pairs or data.n_pairs) for data in (train, val))
    sampler = PairBatchSampler(n_train, config.batch_size, params.seed, shuffle=True)
    val_sampler = PairBatchSampler(n_val, config.batch_size, params.seed, shuffle=False)
    train_batches = OneLineErrors(make_loader(train, sampler, config.num_workers))
    val_batches = RememberedBatches(OneLineErrors(make_loader(val, val_sampler, config.num_workers)))
    return Feeds(train_batches, sampler.set_epoch, val_batches), train


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
