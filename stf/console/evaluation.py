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
GRADE_STYLE = {"Working": "green", "Moderate": "yellow", "Needs work": "red", "n/a": "dim"}


def print_report(
    console: Console, evaluation: Evaluation, phase: str, test_data_use: str, store_baseline: float | None
) -> None:
    """Prints everything on an evaluation of `phase`.

    `test_data_use` says what test data decided in that phase. `store_baseline` is the overall AUC of this store's V7.3
    run, None when there is none.
    """
    e = evaluation
    clips = f"≤ {e.clips_per_video} clips of {e.num_frames} frames at {e.img_size} px per video"
    console.print(f"\n[bold]{escape(e.variant)}[/bold], epoch {e.epoch}, on the test split: {clips}")
    if e.note:
        console.print(f"[bold yellow]{e.note}[/bold yellow]")
    console.print(main_table(e, store_baseline))
    console.print(detail_table(e))
    for result in e.qualities[1:]:
        console.print(quality_table(e, result.quality))
    console.print(baseline_table(e))
    if e.self_blended:
        console.print(self_blended_table(e))
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
    """Method | N | AUC | Acc | Interpretation at the headline quality."""
    quality = evaluation.headline.quality
    table = make_table(
        f"Real test videos against each method's fakes, {quality}", "Method", "N", "AUC % [95 %]", "Acc %"
    )
    table.add_column("Interpretation")
    for title, metrics, is_overall in _titled(evaluation.headline.groups):
        grade = interpretation(metrics.auc)
        text = f"[{GRADE_STYLE[grade]}]{grade}[/]"
        if is_overall:
            table.add_section()
            text += _change(metrics, store_baseline)
        table.add_row(title, *_figures(metrics), text)
    return table


def _change(metrics: GroupMetrics, store_baseline: float | None) -> str:
    """The Overall row's further lines: points gained on V7.3, with the interval of this evaluation's AUC."""
    if metrics.auc is None:
        return ""
    baseline = V73_AUC_ON_FFPP if store_baseline is None else store_baseline
    spread, interval = "", metrics.auc_interval
    if interval is not None:
        spread = f" \\[{100 * (interval.low - baseline):+.1f}, {100 * (interval.high - baseline):+.1f}]"
    return f"\n{100 * (metrics.auc - baseline):+.1f}{spread} points\non V7.3's {100 * baseline:.2f} %"


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
    """What a reader must know beside the tables, one sentence or two each."""
    t = evaluation.threshold
    yield (
        f"Threshold {t.value:.3f}: best balanced accuracy ({100 * t.balanced_accuracy:.1f} %, AUC "
        f"{100 * t.auc:.1f} %) on {t.n_real} + {t.n_fake} self-blended validation clips."
    )
    yield test_data_use
    interval = evaluation.headline.overall.auc_interval
    if interval is not None:
        few = "; with so few an interval is too narrow" if interval.n_clusters < FEW_CLUSTERS else ""
        yield f"Intervals: {interval.n_resamples} resamples of {interval.n_clusters} identity pairs{few}."
    yield (
        "V7.3's figure is its author's on FF++; `make baseline` adds a V7.3 run on this data."
        if store_baseline is None
        else "V7.3's figure is this store's newest V7.3 run on this data; its own spread is not in the interval."
    )
    if phase == "b":
        yield "`python -m pipeline.compare` sets V7.3, phase A and phase B side by side, with paired intervals."
    if evaluation.open_shares:
        shares = ", ".join(
            f"QP {share.qp} {100 * share.mean:.1f} ± {100 * share.std:.1f} %"
            for share in evaluation.open_shares
        )
        n = evaluation.open_shares[0].n_clips
        yield f"Share of the state that is read, on {n} real validation clips: {shares} (mean ± standard deviation)."
    yield from _defects(evaluation)
    if evaluation.gate is not None:
        verdict = "open" if evaluation.gate.passed else "closed"
        yield f"Gate of phase B (overall AUC > {evaluation.gate.threshold}): {verdict}."


def _defects(evaluation: Evaluation) -> Iterator[str]:
    for quality, methods in evaluation.videos.not_on_disk.items():
        if methods:
            yield f"Not on disk in {quality}: {', '.join(methods)}."
    for group in evaluation.videos.groups:
        where = f"{group.quality}/{group.name}"
        errors = evaluation.unreadable(group)
        if errors:
            reasons = _names([f"{video_id} ({error})" for video_id, error in errors.items()])
            yield f"{where}: {len(errors)} of {len(group.videos)} videos not or not wholly readable: {reasons}."
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
