"""The evaluation as tables on the terminal; every line fits 100 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, TypeVar

from rich.markup import escape
from rich.table import Table

from stf.console.tables import FEW_CLUSTERS, make_table, percent, print_notes

if TYPE_CHECKING:
    from rich.console import Console

    from stf.evaluation.intervals import Interval
    from stf.evaluation.metrics import GroupMetrics
    from stf.evaluation.results import Evaluation

T = TypeVar("T")
V73_AUC_ON_FFPP = 0.5155  # V7.3 on FF++'s test split, all four methods: the figure V8.0 has to move
MAX_NAMES = 8
SCALAR_TITLES = {"bits_per_pixel": "bits", "sharpness": "sharp", "face_px": "face"}
GRADE_STYLE = {"Working": "green", "Moderate": "yellow", "Needs work": "red", "n/a": "dim"}


def print_report(
    console: Console,
    evaluation: Evaluation,
    phase: str,
    test_data_use: str,
    store_baseline: float | None,
    *,
    verbose: bool = False,
) -> None:
    """Prints an evaluation of `phase`: the table and the notes; with `verbose` all tables.

    `test_data_use` states what test data decided in that phase. `store_baseline` is the overall AUC of this store's
    V7.3 run, None when there is none.
    """
    e = evaluation
    clips = f"≤ {e.clips_per_video} clips of {e.num_frames} frames at {e.img_size} px per video"
    console.print(f"[bold]{escape(e.variant)}[/bold], epoch {e.epoch}, on the test split: {clips}")
    if e.note:
        console.print(f"[bold yellow]{e.note}[/bold yellow]")
    tables = [main_table(e, store_baseline)]
    if verbose:
        tables += [
            detail_table(e),
            *(quality_table(e, r.quality) for r in e.qualities[1:]),
            baseline_table(e),
        ]
    if e.self_blended:
        tables.append(self_blended_table(e))
    for table in tables:
        console.print(table)
        if table is not tables[-1]:
            console.print()
    print_notes(console, notes(e, phase, test_data_use, store_baseline))


def interpretation(auc: float | None) -> str:
    """The project's three grades of an AUC in [0, 1]: Working ≥ .75, Moderate ≥ .70, else Needs work."""
    if auc is None or math.isnan(auc):
        return "n/a"
    return "Working" if auc >= 0.75 else "Moderate" if auc >= 0.70 else "Needs work"


def _titled(groups: Mapping[str, T]) -> Iterator[tuple[str, T, bool]]:
    """(title, value, whether it is the last: all methods pooled) of every group."""
    *_, pooled = groups
    for name, value in groups.items():
        yield name.capitalize() if name == pooled else name, value, name == pooled


def main_table(evaluation: Evaluation, store_baseline: float | None) -> Table:
    """Method | N | AUC | Acc | Interpretation at the headline quality, and beside it the AUC of untrained scalars."""
    quality = evaluation.headline.quality
    title = f"Real test videos against each method's fakes, {quality}; right: AUC % of untrained scalars"
    table = make_table(title, "Method", "N", "AUC % [95 %]", "Acc %")
    table.add_column("Interpretation")
    for scalar in evaluation.baselines:
        table.add_column(SCALAR_TITLES.get(scalar, scalar), justify="right")
    baseline = V73_AUC_ON_FFPP if store_baseline is None else store_baseline
    for (title, metrics, is_overall), name in zip(
        _titled(evaluation.headline.groups), evaluation.headline.groups, strict=True
    ):
        grade = interpretation(metrics.auc)
        text = f"[{GRADE_STYLE[grade]}]{grade}[/]"
        if is_overall and metrics.auc is not None:
            text += f"\n{100 * (metrics.auc - baseline):+.1f} on V7.3"
        scalars = (percent(groups[name].auc) for groups in evaluation.baselines.values())
        table.add_row(title, *_figures(metrics), text, *scalars)
    return table


def _figures(metrics: GroupMetrics) -> tuple[str, str, str]:
    """N, AUC and accuracy."""
    auc = escape(percent(metrics.auc) + _spread(metrics.auc_interval))
    return f"{metrics.n_real} + {metrics.n_fake}", auc, percent(metrics.accuracy)


def _spread(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def detail_table(evaluation: Evaluation) -> Table:
    """The other metrics at the headline quality, in per cent."""
    columns = ("Bal. acc", "Precision", "Recall", "F1", "EER", "AP", "TPR @ FPR 1 %")
    table = make_table("At the validation threshold, % (EER, AP, TPR without it)", "Method", *columns)
    for title, m, _ in _titled(evaluation.headline.groups):
        values = (m.balanced_accuracy, m.precision, m.recall, m.f1, m.eer, m.ap, m.tpr_at_fpr_1pct)
        table.add_row(title, *map(percent, values))
    return table


def quality_table(evaluation: Evaluation, quality: str) -> Table:
    """N, AUC and accuracy of one further quality."""
    result = next(result for result in evaluation.qualities if result.quality == quality)
    table = make_table(f"The same in {quality}", "Method", "N", "AUC % [95 %]", "Acc %")
    for title, metrics, _ in _titled(result.groups):
        table.add_row(title, *_figures(metrics))
    return table


def baseline_table(evaluation: Evaluation) -> Table:
    """AUC of the untrained scalars beside the network's."""
    groups = evaluation.headline.groups
    table = make_table("Trivial baselines: AUC % of untrained scalars, larger = fake", "Scalar")
    for title, _, is_overall in _titled(groups):
        table.add_column(f"{title} [95 %]" if is_overall else title, justify="right")
    network = [
        escape(percent(m.auc) + (_spread(m.auc_interval) if is_overall else ""))
        for _, m, is_overall in _titled(groups)
    ]
    table.add_row("the network", *network, style="bold")
    for scalar, by_group in evaluation.baselines.items():
        cells = [
            escape(percent(s.auc) + (_spread(s.interval) if is_overall else ""))
            for _, s, is_overall in _titled(by_group)
        ]
        table.add_row(scalar, *cells)
    return table


def self_blended_table(evaluation: Evaluation) -> Table:
    """AUC on the two fixed self-blended sets of --sbi-test."""
    table = make_table(
        "Self-blended clips of the test split's real videos (fixed seed)", "Recipe", "N", "AUC % [95 %]"
    )
    for r in evaluation.self_blended:
        auc = escape(percent(r.auc) + _spread(r.interval))
        table.add_row(f"{r.recipe}: {r.meaning}", f"{r.n_real} + {r.n_fake}", auc)
    return table


def notes(
    evaluation: Evaluation, phase: str, test_data_use: str, store_baseline: float | None
) -> Iterator[str]:
    """The notes below the table, one or two sentences each."""
    t = evaluation.threshold
    yield (
        f"Threshold {t.value:.3f}: balanced accuracy {percent(t.balanced_accuracy)} %, AUC {percent(t.auc)} % "
        f"({t.n_real} + {t.n_fake} self-blended validation clips)"
    )
    for result in evaluation.qualities[1:]:
        aucs = (
            f"{title.lower() if is_overall else title} {percent(m.auc)}"
            for title, m, is_overall in _titled(result.groups)
        )
        yield f"{result.quality}: AUC % {', '.join(aucs)}"
    yield test_data_use
    overall = evaluation.headline.overall
    if overall.auc_interval is not None:
        few = (
            "; with so few an interval is too narrow"
            if overall.auc_interval.n_clusters < FEW_CLUSTERS
            else ""
        )
        yield (
            f"Intervals: {overall.auc_interval.n_resamples} resamples of {overall.auc_interval.n_clusters} identity "
            f"pairs{few}."
        )
    yield _change(overall, store_baseline)
    if phase == "b":
        yield "`python -m pipeline.compare` compares V7.3, phase A and phase B, with paired intervals."
    if evaluation.open_shares:
        shares = ", ".join(
            f"QP {share.qp} {100 * share.mean:.1f} ± {100 * share.std:.1f} %"
            for share in evaluation.open_shares
        )
        n = evaluation.open_shares[0].n_clips
        yield f"State in use on {n} real validation clips: {shares} (mean ± std)"
    yield from _defects(evaluation)
    if evaluation.gate is not None:
        verdict = "open" if evaluation.gate.passed else "closed"
        yield f"Gate of phase B (overall AUC > {evaluation.gate.threshold}): {verdict}."


def _change(overall: GroupMetrics, store_baseline: float | None) -> str:
    """Points gained on V7.3, with the interval of this evaluation's AUC, and where V7.3's figure is from."""
    baseline = V73_AUC_ON_FFPP if store_baseline is None else store_baseline
    change = ""
    if overall.auc is not None:
        change = f" Change: {100 * (overall.auc - baseline):+.1f}"
        if (interval := overall.auc_interval) is not None:
            change += f" [{100 * (interval.low - baseline):+.1f}, {100 * (interval.high - baseline):+.1f}]"
        change += " points."
    source = (
        "its author's figure on FF++; `make baseline` adds a run on this data"
        if store_baseline is None
        else "this store's newest V7.3 run on this data, whose own spread is not in the interval"
    )
    return f"V7.3: {100 * baseline:.2f} %, {source}.{change}"


def _defects(evaluation: Evaluation) -> Iterator[str]:
    for quality, methods in evaluation.videos.not_on_disk.items():
        if methods:
            yield f"Not on disk in {quality}: {', '.join(methods)}."
    for group in evaluation.videos.groups:
        where = f"{group.quality}/{group.name}"
        errors = evaluation.unreadable(group)
        if errors:
            reasons = _names([f"{video_id} ({error})" for video_id, error in errors.items()])
            yield f"{where}: {len(errors)} of {len(group.videos)} videos not fully readable: {reasons}."
        if group.missing:
            yield f"{where}: {len(group.missing)} test ids have no video: {_names(group.missing)}."
        if group.outside_splits:
            ignored = _names(group.outside_splits)
            yield f"{where}: {len(group.outside_splits)} fakes ignored, target in no split file: {ignored}."
        borrowed = [video.video_id for video in group.videos if video.borrowed_geometry]
        if borrowed:
            yield f"{where}: {len(borrowed)} fakes use their target's landmarks or boxes: {_names(borrowed)}."


def _names(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
