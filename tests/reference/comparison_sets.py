"""Invented evaluations: score files as eval_a writes them, and tracked runs that contain them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from stf.config import FLAGS, METHODS, Params, STFV8Config
from stf.io.hashing import sha256_of
from stf.tracking.run import track

FINGERPRINT = "data 1"


def score_table(
    gap: float, seed: int = 0, n_pairs: int = 8, methods: tuple[str, ...] = METHODS, quality: str = "c23"
) -> pd.DataFrame:
    """Draws two reals and, per method, two fakes for each pair; a level per pair, equal for all seeds, shifts them."""
    people, rng = np.random.default_rng(99), np.random.default_rng(seed)
    rows = []
    for k in range(n_pairs):
        a, b = f"{2 * k:03d}", f"{2 * k + 1:03d}"
        level = people.normal(0, 0.5)
        for method in ("real", *methods):
            for target, source in ((a, b), (b, a)):
                label = int(method != "real")
                score = 1 / (1 + np.exp(-(gap * label + level + rng.normal(0, 1))))
                video_id = target if not label else f"{target}_{source}"
                rows.append((video_id, method, quality, label, target, f"{a}+{b}", score, 2, ""))
    columns = [
        "video_id",
        "method",
        "quality",
        "label",
        "target_id",
        "identity_pair",
        "score",
        "n_clips",
        "error",
    ]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def write_files(
    metrics_path: Path,
    table: pd.DataFrame,
    variant: str = "A",
    weights: bytes = b"",
    quality: str = "c23",
) -> Path:
    """Details (what a comparison reads of them) and scores beside empty metrics; returns the details' path."""
    details = {
        "note": "Synthetic stand-in",
        "checkpoint": {"variant": variant, "epoch": 3, "weights_sha256": hashlib.sha256(weights).hexdigest()},
        "quality": quality,
        "clips": {"per_video": 2, "num_frames": 16, "img_size": 96},
    }
    metrics_path.parent.mkdir(parents=True, exist_ok=True)
    metrics_path.write_text("{}", encoding="utf-8")
    path = metrics_path.with_name(f"{metrics_path.stem}_details.json")
    path.write_text(json.dumps(details), encoding="utf-8")
    scores = metrics_path.with_name(f"{metrics_path.stem}_scores.csv")
    table.to_csv(scores, index=False, float_format="%.9g")
    return path


def auc_metrics(table: pd.DataFrame) -> dict[str, float]:
    """Returns the metrics that eval_a logs for a table, as far as the ablation table reads them."""
    reals, fakes = table[table["label"] == 0], table[table["label"] == 1]
    groups = {name: fakes[fakes["method"] == name] for name in fakes["method"].unique()} | {"overall": fakes}
    metrics = {}
    for name, group in groups.items():
        higher = group["score"].to_numpy()[:, None] > reals["score"].to_numpy()
        metrics |= {
            f"auc/{name}": float(higher.mean()),
            f"auc_low/{name}": 0.1,
            f"n_real/{name}": float(len(reals)),
            f"n_fake/{name}": float(len(group)),
        }
    return metrics


def config_of(flags: tuple[str, ...]) -> STFV8Config:
    """A configuration with exactly these flags on."""
    return STFV8Config(**{flag: flag in flags for flag in FLAGS})


def store_training(
    folder: Path, flags: tuple[str, ...], *, params: Params | None = None, phase: str = "a", tag: str = ""
) -> Path:
    """Stores a finished training run; returns its 'weights', a file that contains flags, seed and phase."""
    params, config = params or Params(), config_of(flags)
    weights = folder / f"{config.variant()}-{params.seed}-{phase}{tag}.pt"
    weights.write_text(weights.name)
    with track(f"train_phase_{phase}", params=params, config=config, fingerprint=FINGERPRINT) as run:
        run.log({"model/parameters": 123_456.0, "clips_per_s": 7.5, "cost_usd": 0.03, "val/best_auc": 0.61})
        run.tie_weights(sha256_of(weights))
    return weights


def store_evaluation(
    folder: Path,
    weights: Path,
    flags: tuple[str, ...],
    table: pd.DataFrame,
    *,
    params: Params | None = None,
    phase: str = "a",
    fingerprint: str = FINGERPRINT,
) -> None:
    """Stores a finished evaluation run with metrics and files."""
    config, stage = config_of(flags), f"eval_{phase}"
    files = folder / f"{weights.stem} files"
    path = write_files(files / f"{stage}.json", table, config.variant(), weights.read_bytes())
    with track(stage, params=params or Params(), config=config, fingerprint=fingerprint) as run:
        run.tie_weights(sha256_of(weights))
        run.log(auc_metrics(table))
        for file in (path, path.with_name(f"{stage}_scores.csv")):
            run.artifact(file, "evaluation")


def store_both(
    folder: Path, flags: tuple[str, ...], table: pd.DataFrame, *, seed: int = 0, phase: str = "a"
) -> None:
    """Stores a training run and its evaluation."""
    params = dataclasses.replace(Params(), seed=seed)
    weights = store_training(folder, flags, params=params, phase=phase)
    store_evaluation(folder, weights, flags, table, params=params, phase=phase)
