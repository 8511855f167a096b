"""An evaluation as files: where they go, how they are written, and how a comparison reads them back.

NAME.json holds the dozen figures that DVC's tables show, NAME_details.json everything, NAME_scores.csv a line per
video. None of them holds a time or a run id: equal input, equal bytes.
"""

from __future__ import annotations

import io
import json
import os
import reprlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stf.errors import DataError, UsageError
from stf.evaluation.baselines import SCALARS, ScalarAuc
from stf.evaluation.clips import SPLIT, VideoGroup
from stf.evaluation.intervals import Interval
from stf.evaluation.metrics import GroupMetrics
from stf.evaluation.plots import save_roc_plot, save_scores_plot
from stf.evaluation.results import OVERALL, TEST_DATA_USE, Evaluation
from stf.io.files import read_bounded, read_json
from stf.io.outputs import require_own_json, write_text

DETAILS_SUFFIX = "_details"
DETAILS_KEY = "qualities"  # by which an evaluation's details are recognised


@dataclass(frozen=True)
class Outputs:
    """The files of one evaluation; `gate` is None unless it is phase A's plain one, which DVC runs."""

    metrics: Path
    details: Path
    scores: Path
    roc_plot: Path
    scores_plot: Path
    gate: Path | None

    @classmethod
    def beside(cls, metrics: Path, gate: Path | None = None) -> Outputs:
        """DIR/NAME.json, NAME_details.json and NAME_scores.csv beside it, plots/NAME_roc.png and NAME_scores.png."""
        folder, name = metrics.parent, metrics.stem
        return cls(
            metrics,
            details=folder / f"{name}{DETAILS_SUFFIX}.json",
            scores=folder / f"{name}_scores.csv",
            roc_plot=folder / f"plots/{name}_roc.png",
            scores_plot=folder / f"plots/{name}_scores.png",
            gate=gate,
        )


def choose_outputs(phase: str, output: str | None, changed: tuple[str, ...]) -> Outputs:
    """The DVC outputs under metrics/ for the plain command, else `output`, else tmp/eval_{phase}/.

    `changed` names the options whose value is not the default. With any of them, or another `output`, the result is
    not the pipeline's: no DVC output is overwritten and no gate written; the gate is phase A's alone. Raises
    UsageError when `output` asks for that, is no .json file, or would replace something else than an evaluation.
    """
    default = Path("metrics") / f"eval_{phase}.json"
    is_default = output is None or os.path.realpath(output) == os.path.realpath(default)
    if output is not None and is_default and changed:
        what = f"{default} holds the pipeline's own result, and {', '.join(changed)} would change it"
        raise UsageError(f"--output {output}: {what}; give another path")
    if is_default and not changed:
        return Outputs.beside(default, gate=Path("metrics/gate_a.json") if phase == "a" else None)
    own = Path("tmp") / f"eval_{phase}" / default.name if output is None else Path(output)
    outputs = Outputs.beside(own)
    require_own_json("--output", outputs.metrics, f"{phase}_auc_{OVERALL}")
    require_own_json("--output", outputs.details, DETAILS_KEY)
    return outputs


DIGITS = 6
INTERVAL_METHOD = (
    "95 % percentile interval of a bootstrap over the split file's identity pairs (both people's videos and fakes "
    "are drawn together); a draw that lacks a class is drawn again"
)
THRESHOLD_METHOD = (
    "highest balanced accuracy on the self-blended clips of the val split, made by the checkpoint's own recipe; of "
    "equally good ones the nearest to 0.5; no manipulated and no test video is read"
)


def flat_metrics(evaluation: Evaluation, phase: str) -> dict[str, float | int | None]:
    """NAME.json: the AUCs at the headline quality, and what they rest on; keys 'a_…' or 'b_…', not available is null.

    No two metrics files of the pipeline share a key: DVC would put the file's path before it.
    """
    overall, interval = evaluation.headline.overall, evaluation.headline.overall.auc_interval
    metrics = {f"auc_{name}": group.auc for name, group in evaluation.headline.groups.items()} | {
        "auc_overall_low": interval.low if interval else None,
        "auc_overall_high": interval.high if interval else None,
        "acc_overall": overall.accuracy,
        "threshold": evaluation.threshold.value,
        "n_real": overall.n_real,
        "n_fake": overall.n_fake,
    }
    return rounded({f"{phase}_{name}": value for name, value in metrics.items()})


def all_details(evaluation: Evaluation, phase: str, weights_sha256: str) -> dict[str, Any]:
    """NAME_details.json: the whole evaluation as plain JSON values; not available is null."""
    e = evaluation
    document: dict[str, Any] = {
        "phase": phase,
        "note": e.note,
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
    """Writes JSON with the keys in the document's order; makes the folder."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_scores(table: pd.DataFrame, path: Path) -> None:
    """Writes one line per video: ids, label, score, clips, what could not be read, the untrained scalars.

    Nine significant digits, all that a float32 has: with fewer, a network whose scores lie close together would tie
    videos that it separates, and the AUC of this file would not be the document's.
    """
    write_text(path, table.to_csv(None, index=False, float_format="%.9g", lineterminator="\n"))


def tracked_metrics(evaluation: Evaluation) -> dict[str, float]:
    """<measure>/<method> for a tracking store (auc/Deepfakes, auc/overall, …), at another quality auc_raw/Deepfakes."""
    tracked: dict[str, float] = {"threshold": evaluation.threshold.value}
    for result in evaluation.qualities:
        quality = "" if result is evaluation.headline else f"_{result.quality}"
        for name, metrics in result.groups.items():
            values = {key: value for key, value in _group(metrics).items() if isinstance(value, int | float)}
            tracked |= {f"{key}{quality}/{name}": float(value) for key, value in values.items()}
    for scalar, groups in evaluation.baselines.items():
        auc = groups[OVERALL].auc
        tracked |= {f"baseline_auc/{scalar}": auc} if auc is not None else {}
    tracked |= {f"open_state_share/qp{share.qp}": share.mean for share in evaluation.open_shares}
    return tracked | {f"sbi_test_auc/{r.recipe.split()[0]}": r.auc for r in evaluation.self_blended}


def _accounts(evaluation: Evaluation, quality: str) -> dict[str, Any]:
    groups = [group for group in evaluation.videos.groups if group.quality == quality]
    return {group.name: _account(evaluation, group) for group in groups}


def _account(evaluation: Evaluation, group: VideoGroup) -> dict[str, Any]:
    """Where each video of one group went: nothing is left out silently."""
    table = evaluation.table
    mine = pd.DataFrame(table.loc[(table["quality"] == group.quality) & (table["method"] == group.name)])
    return {
        "on_disk": len(group.videos),
        "scored": int(np.isfinite(mine["score"].to_numpy(float)).sum()),
        "unreadable": evaluation.unreadable(group),
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


def write_report(
    evaluation: Evaluation, outputs: Outputs, phase: str, weights_sha256: str
) -> tuple[Path, ...]:
    """Writes metrics, details, scores and both plots; returns their paths. The gate is `write_gate`'s."""
    write_document(flat_metrics(evaluation, phase), outputs.metrics)
    write_document(all_details(evaluation, phase, weights_sha256), outputs.details)
    write_scores(evaluation.table, outputs.scores)
    save_roc_plot(evaluation, outputs.roc_plot)
    save_scores_plot(evaluation, outputs.scores_plot)
    return outputs.metrics, outputs.details, outputs.scores, outputs.roc_plot, outputs.scores_plot


def write_gate(evaluation: Evaluation, outputs: Outputs) -> None:
    """Writes the gate where `outputs` has one; raises DataError, and writes none, when a group has no figures."""
    failed = evaluation.failed_groups()
    if failed:
        hint = "`dvc repro verify_data` lists every defect"
        raise DataError(f"no video of {', '.join(failed)} could be read, so its figures are n/a; {hint}")
    if outputs.gate is not None and evaluation.gate is not None:
        evaluation.gate.write(outputs.gate)


MAX_SCORES_BYTES = 200_000_000  # FF++'s 700 videos in three qualities take 200 kB
MAX_TEXT, MAX_COUNT = 200, 1_000_000_000
_TEXT_COLUMNS = ["video_id", "method", "quality", "identity_pair"]
_KEY = ["quality", "method", "video_id"]


@dataclass(frozen=True)
class SavedEvaluation:
    """What a comparison needs of one evaluation: where it is from, what was scored, and every video's score."""

    variant: str
    epoch: int
    quality: str  # the headline
    clips: dict[str, int]  # per_video, num_frames, img_size
    is_synthetic: bool
    weights_sha256: str
    table: pd.DataFrame  # video_id, method, quality, identity_pair, label, score (NaN: not scored)


def read_evaluation(path: str | Path) -> SavedEvaluation:
    """Reads an evaluation by its NAME.json or NAME_details.json; raises DataError naming the file that is none."""
    given = Path(path)
    outputs = Outputs.beside(given.with_name(given.stem.removesuffix(DETAILS_SUFFIX) + given.suffix))
    details = _read_details(outputs.details)
    try:
        checkpoint = details["checkpoint"]
        return SavedEvaluation(
            variant=_text(checkpoint["variant"]),
            epoch=_count(checkpoint["epoch"]),
            quality=_text(details["quality"]),
            clips={name: _count(value) for name, value in details["clips"].items()},
            is_synthetic=details["note"] is not None,
            weights_sha256=_text(checkpoint["weights_sha256"]),
            table=_read_scores(outputs.scores),
        )
    except KeyError as error:
        raise DataError(f"{outputs.details} holds no evaluation: it lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{outputs.details} holds no evaluation: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise TypeError(f"{reprlib.repr(value)} stands where a short text belongs")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise TypeError(f"{reprlib.repr(value)} stands where a number of things belongs")
    return value


def _read_details(path: Path) -> dict[str, Any]:
    try:
        details = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; an evaluation writes it beside its NAME.json") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {str(error)[:200]}; evaluate again") from None
    if not isinstance(details, dict):
        raise DataError(f"{path} holds no evaluation")
    return details


def _read_scores(path: Path) -> pd.DataFrame:
    columns = [*_TEXT_COLUMNS, "label", "score"]
    try:
        content = io.BytesIO(read_bounded(path, MAX_SCORES_BYTES))
        kinds: Any = dict.fromkeys(_TEXT_COLUMNS, str) | {"label": int, "score": float}
        table = pd.read_csv(content, dtype=kinds, usecols=columns)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; an evaluation's scores lie beside its JSON") from None
    except (OSError, ValueError, OverflowError) as error:
        raise DataError(
            f"{path} cannot be read as a score table: {str(error)[:200]}; evaluate again"
        ) from None
    if table[_TEXT_COLUMNS].isna().to_numpy().any():
        raise DataError(f"{path} holds a video without id, method, quality or identity pair; evaluate again")
    if not table["score"].dropna().between(0, 1).all():
        raise DataError(f"{path} holds a score that is no probability; evaluate again")
    if not set(table["label"]) <= {0, 1}:
        raise DataError(f"{path} holds a label that is neither 0 nor 1")
    twice = table[table.duplicated(_KEY)]
    if len(twice):
        raise DataError(f"{path} holds {'/'.join(twice.iloc[0][_KEY])} twice")
    return table
