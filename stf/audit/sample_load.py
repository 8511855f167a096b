"""Loads a pair through the data set that training uses, to catch what the file checks cannot."""

from __future__ import annotations

from typing import Literal

from stf.audit.video_check import Defect
from stf.config import DataParams, SbiParams, STFV8Config
from stf.data.clips import spread_evenly
from stf.data.video_sbi_dataset import Pair, VideoSBIDataset
from stf.errors import DataError

LOAD_SEED = 0  # fixed: independent of a run's seed


def _dataset(phase: Literal["train", "val"], data: DataParams, sbi: SbiParams) -> VideoSBIDataset:
    """Builds Video-SBI with all augmentations on, at the size of `data`, independent of a run's flags."""
    config = STFV8Config(
        num_frames=data.num_frames,
        img_size=data.img_size,
        data_root=data.root,
        use_multiscale_drift=True,
        use_compression_aug=True,
    )
    return VideoSBIDataset(phase, config, data=data, sbi=sbi, seed=LOAD_SEED)


def load_one_pair(data: DataParams, sbi: SbiParams) -> list[Defect]:
    """Loads the first real and fake clip of train and val; returns a Defect for each split where that fails."""
    defects = []
    for phase in ("train", "val"):
        try:
            dataset = _dataset(phase, data, sbi)
            for item, label in ((dataset[0], 0), (dataset[1], 1)):
                shape = (3, data.num_frames, data.img_size, data.img_size)
                if tuple(item["video"].shape) != shape or item["label"] != label:
                    raise DataError(
                        f"loaded a clip of shape {tuple(item['video'].shape)}, label {item['label']}; "
                        f"expected {shape}, label {label}"
                    )
        except DataError as error:
            defects.append(Defect("error", "sample does not load", phase, str(error)))
    return defects


def sample_pairs(data: DataParams, sbi: SbiParams, n: int) -> list[Pair]:
    """Returns `n` training pairs of videos spread over the split; raises DataError as the data set does."""
    dataset = _dataset("train", data, sbi)
    return [dataset.pair(0, index) for index in spread_evenly(range(dataset.n_pairs), n)]
