"""An evaluation as files: the JSON document and the CSV of scores. No time, no run id: equal input, equal bytes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stf.evaluation.baselines import SCALARS, ScalarAuc
from stf.evaluation.bootstrap import Interval
from stf.evaluation.gate import TEST_DATA_USE
from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.results import OVERALL, REAL, Evaluation
from stf.evaluation.videos import SPLIT, VideoGroup
from stf.io.outputs import write_text

DIGITS = 6
SYNTHETIC_NOTE = (
    "Synthetic stand-in: the data is the built-in sample, made to run the line. "
    "Its figures mean nothing for real deepfakes."
)
INTERVAL_METHOD = (
    "95 % percentile interval of a bootstrap over the split file's identity pairs (both people's videos and fakes "
    "are drawn together); a draw that lacks a class is drawn again"
)
THRESHOLD_METHOD = (
    "highest balanced accuracy on the self-blended clips of the val split, made by the checkpoint's own recipe; of "
    "equally good ones the nearest to 0.5; no manipulated and no test video is read"
)


def as_document(evaluation: Evaluation, phase: str, weights_sha256: str) -> dict[str, Any]:
    """Everything the evaluation found, as plain JSON values; not available is null."""
    e = evaluation
    document: dict[str, Any] = {
        "phase": phase,
        "note": SYNTHETIC_NOTE if e.synthetic else None,
        "test_data_use": TEST_DATA_USE[phase],
        "checkpoint": {"variant": e.variant, "epoch": e.epoch, "weights_sha256": weights_sha256},
        "split": SPLIT,
        "quality": e.headline.quality,
        "clips": {"per_video": e.clips_per_video, "num_frames": e.num_frames, "img_size": e.img_size},
        "threshold": rounded(asdict(e.threshold)) | {"chosen_by": THRESHOLD_METHOD},
        "interval": INTERVAL_METHOD,
        "qualities": {
            result.quality: {
                "groups": {name: _group(metrics) for name, metrics in result.groups.items()},
                "not_on_disk": list(e.videos.not_on_disk[result.quality]),
                "videos": _accounts(e, result.quality),
            }
            for result in e.qualities
        },
        "trivial_baselines": _baselines(e),
        "gate": asdict(e.gate) if e.gate else None,
    }
    if e.open_shares:
        document["open_state_share"] = [asdict(share) for share in e.open_shares]
    if e.self_blended:
        document["self_blended_test"] = {
            r.recipe: {"meaning": r.meaning, "auc": r.auc, "n_real": r.n_real, "n_fake": r.n_fake}
            | _interval(r.interval)
            for r in e.self_blended
        }
    return rounded(document)


def write_document(document: dict[str, Any], path: Path) -> None:
    """Writes the JSON, keys in the document's order; makes the folder."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_scores(table: pd.DataFrame, path: Path) -> None:
    """Writes one line per video: ids, label, score, clips, what could not be read, the untrained scalars.

    Nine significant digits, all that a float32 has: with fewer, a network whose scores lie close together would tie
    videos that it tells apart, and the AUC of this file would not be the document's.
    """
    write_text(path, table.to_csv(None, index=False, float_format="%.9g", lineterminator="\n"))


def tracked_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Flat numbers for a tracking store: 'auc_Deepfakes', 'auc_overall', …; other qualities under 'raw/…'."""
    found: dict[str, float] = {"threshold": evaluation.threshold.value}
    for result in evaluation.qualities:
        prefix = "" if result is evaluation.headline else f"{result.quality}/"
        for name, metrics in result.groups.items():
            values = {key: value for key, value in _group(metrics).items() if isinstance(value, int | float)}
            found |= {f"{prefix}{key}_{name}": float(value) for key, value in values.items()}
    for scalar, groups in evaluation.baselines.items():
        auc = groups[OVERALL].auc
        found |= {f"baseline_auc_{scalar}": auc} if auc is not None else {}
    found |= {f"open_state_share_qp{share.qp}": share.mean for share in evaluation.open_shares}
    return found | {f"sbi_test_auc_{r.recipe.split()[0]}": r.auc for r in evaluation.self_blended}


def unreadable(evaluation: Evaluation, quality: str, method: str) -> dict[str, str]:
    """{video id: error} of the videos (of REAL or a method) that could not be scored, or not from every clip."""
    table = evaluation.table
    rows = table[(table["quality"] == quality) & (table["method"] == method) & (table["error"] != "")]
    return dict(zip(rows["video_id"], rows["error"], strict=True))


def _accounts(evaluation: Evaluation, quality: str) -> dict[str, Any]:
    groups = [group for group in evaluation.videos.groups if group.quality == quality]
    return {group.method or REAL: _account(evaluation, group) for group in groups}


def _account(evaluation: Evaluation, group: VideoGroup) -> dict[str, Any]:
    """Where each video of one group went: nothing is left out silently."""
    table, name = evaluation.table, group.method or REAL
    mine = pd.DataFrame(table.loc[(table["quality"] == group.quality) & (table["method"] == name)])
    return {
        "on_disk": len(group.videos),
        "scored": int(np.isfinite(mine["score"].to_numpy(float)).sum()),
        "unreadable": unreadable(evaluation, group.quality, name),
        "test_ids_without_video": list(group.missing),
        "ignored_target_in_no_split": list(group.outside_splits),
        "with_geometry_of_their_target": [v.video_id for v in group.videos if v.borrowed_geometry],
    }


def _baselines(evaluation: Evaluation) -> dict[str, Any]:
    headline = evaluation.headline
    reasons = evaluation.table["scalar_error"].fillna("").to_numpy(str)
    return {
        "meaning": "AUC of scalars that nobody trained, larger = fake, beside the network's",
        "quality": headline.quality,
        "unmeasured_videos": int(np.count_nonzero(reasons != "")),
        "scalars": SCALARS,
        "auc": {
            "network": {
                name: {"auc": m.auc} | _interval(m.auc_interval) for name, m in headline.groups.items()
            },
            **{
                scalar: {name: _scalar(value) for name, value in groups.items()}
                for scalar, groups in evaluation.baselines.items()
            },
        },
    }


def _scalar(value: ScalarAuc) -> dict[str, Any]:
    return {"auc": value.auc} | _interval(value.interval)


def _group(metrics: GroupMetrics) -> dict[str, Any]:
    values = asdict(metrics)
    del values["auc_interval"]
    return values | _interval(metrics.auc_interval)


def _interval(interval: Interval | None) -> dict[str, Any]:
    if interval is None:
        return {"auc_low": None, "auc_high": None, "n_clusters": None}
    return {"auc_low": interval.low, "auc_high": interval.high, "n_clusters": interval.n_clusters}


def rounded(value: Any) -> Any:
    """`value` with every float rounded to DIGITS, so that the last bits of a machine do not show."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return round(value, DIGITS) if isinstance(value, float) else value
