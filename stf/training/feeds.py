"""The clips of a run: Video-SBI's train and val splits, in batches that keep pairs together."""

from __future__ import annotations

from stf.config import Params, STFV8Config
from stf.data.video_sbi_dataset import PairBatchSampler, VideoSBIDataset, make_loader
from stf.training.fit import Feeds
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
    val_batches = RememberedBatches(make_loader(val, val_sampler, config.num_workers))
    return Feeds(make_loader(train, sampler, config.num_workers), sampler.set_epoch, val_batches), train
