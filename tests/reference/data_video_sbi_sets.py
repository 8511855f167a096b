"""Data sets over the tests' tiny trees, and one pair's draws computed outside the data set."""

import dataclasses

from stf.config import SbiParams, STFV8Config
from stf.data.face_clip import read_face_clip
from stf.data.faces import draw_side_factors, final_crop_window
from stf.data.video_sbi import draw_sbi, random_streams
from stf.data.video_sbi_dataset import VideoSBIDataset

T, S = 8, 48


def config_for(root, **changes):
    config = dataclasses.replace(STFV8Config.debug(), img_size=S, num_frames=T, data_root=str(root))
    return dataclasses.replace(config, **changes)


def dataset_for(root, phase="train", sbi=None, seed=0, data=None, reader=read_face_clip, **flags):
    return VideoSBIDataset(phase, config_for(root, **flags), sbi=sbi, seed=seed, data=data, reader=reader)


def everything_on(root, phase="train", **more):
    sbi = SbiParams(compression_probability=1.0, tps_probability=1.0, **more)
    return dataset_for(root, phase, sbi, use_compression_aug=True, use_multiscale_drift=True)


def drawn(dataset, seed):
    """Returns (clip, draw, window) of one attempt, drawn as the data set does."""
    rngs = random_streams(seed)
    video_index = seed[2] // dataset.pairs_per_video
    start = int(rngs["start"].choice(dataset._starts[video_index]))
    clip = read_face_clip(dataset.videos[video_index], start, T, bool(rngs["flip"].random() < 0.5))
    height, width = clip.frames_THWC.shape[1:3]
    factors = draw_side_factors(rngs["crop"], dataset.recipe.train)
    window = final_crop_window(clip.box_22, height, width, factors)
    return clip, draw_sbi(rngs, dataset.recipe, clip, window), window
