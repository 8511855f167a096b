"""The evaluation as tables on the terminal; every line fits 100 columns."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stf.evaluation.bootstrap import Interval
from stf.evaluation.document import SYNTHETIC_NOTE, unreadable
from stf.evaluation.gate import TEST_DATA_USE
from stf.evaluation.metrics import GroupMetrics, interpretation
from stf.evaluation.results import OVERALL, REAL, Evaluation

WIDTH = 100
V73_AUC_ON_FFPP = 0.5155  # V7.3 on FF++'s test split, all four methods: the figure V8.0 has to move
FEW_CLUSTERS = 10
MAX_NAMES = 8
GRADE_STYLE = {"Working": "green", "Moderate": "yellow", "Needs work": "red", "n/a": "dim"}


def make_console() -> Console:
    """A console of at most WIDTH columns; exactly WIDTH where the output is no terminal."""
    console = Console(highlight=False)
    return Console(highlight=False, width=min(WIDTH, console.width) if console.is_terminal else WIDTH)


def print_report(console: Console, evaluation: Evaluation, phase: str, store_baseline: float | None) -> None:
    """Prints everything on an evaluation of `phase`.

    `store_baseline` is the overall AUC of this store's V7.3 run, None when there is none.
    """
    e = evaluation
    clips = f"≤ {e.clips_per_video} clips of {e.num_frames} frames at {e.img_size} px per video"
    console.print(f"\n[bold]{escape(e.variant)}[/bold], epoch {e.epoch}, on the test split: {clips}")
    if e.synthetic:
        console.print(f"[bold yellow]{SYNTHETIC_NOTE}[/bold yellow]")
    console.print(main_table(e, store_baseline))
    console.print(detail_table(e))
    for result in e.qualities[1:]:
        console.print(quality_table(e, result.quality))
    console.print(baseline_table(e))
    if e.self_blended:
        console.print(self_blended_table(e))
    bullets = Table.grid(padding=(0, 1))
    for note in notes(e, phase, store_baseline):
        bullets.add_row("•", escape(note))
    console.print(bullets)


def make_table(title: str, *columns: str) -> Table:
    """An empty table; the first column is left-justified, the others right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def main_table(evaluation: Evaluation, store_baseline: float | None) -> Table:
    """Method | N | AUC | Acc | Interpretation at the headline quality."""
    quality = evaluation.headline.quality
    table = make_table(
        f"Real test videos against each method's fakes, {quality}", "Method", "N", "AUC % [95 %]", "Acc %"
    )
    table.add_column("Interpretation")
    for name, metrics in evaluation.headline.groups.items():
        grade = interpretation(metrics.auc)
        text = f"[{GRADE_STYLE[grade]}]{grade}[/]"
        if name == OVERALL:
            table.add_section()
            text += _change(metrics, store_baseline)
        table.add_row(*_row(name, metrics), text)
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


def _row(name: str, metrics: GroupMetrics) -> tuple[str, str, str, str]:
    auc = escape(percent(metrics.auc) + _spread(metrics.auc_interval))
    count = f"{metrics.n_real} + {metrics.n_fake}"
    return name.capitalize() if name == OVERALL else name, count, auc, percent(metrics.accuracy)


def percent(value: float | None) -> str:
    """A share in [0, 1] as per cent with one decimal; None is n/a."""
    return "n/a" if value is None else f"{100 * value:.1f}"


def _spread(interval: Interval | None) -> str:
    return "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def detail_table(evaluation: Evaluation) -> Table:
    """The other metrics at the headline quality, in per cent."""
    columns = ("Bal. acc", "Precision", "Recall", "F1", "EER", "AP", "TPR @ FPR 1 %")
    table = make_table("At the validation threshold, % (EER, AP, TPR without it)", "Method", *columns)
    for name, m in evaluation.headline.groups.items():
        values = (m.balanced_accuracy, m.precision, m.recall, m.f1, m.eer, m.ap, m.tpr_at_fpr_1pct)
        table.add_row(name.capitalize() if name == OVERALL else name, *map(percent, values))
    return table


def quality_table(evaluation: Evaluation, quality: str) -> Table:
    """N, AUC and accuracy of one further quality."""
    result = next(result for result in evaluation.qualities if result.quality == quality)
    table = make_table(f"The same in {quality}", "Method", "N", "AUC % [95 %]", "Acc %")
    for name, metrics in result.groups.items():
        table.add_row(*_row(name, metrics))
    return table


def baseline_table(evaluation: Evaluation) -> Table:
    """AUC of the untrained scalars beside the network's."""
    groups = evaluation.headline.groups
    table = make_table("Trivial baselines: AUC % of untrained scalars, larger = fake", "Scalar")
    for name in groups:
        table.add_column("Overall [95 %]" if name == OVERALL else name, justify="right")
    network = [
        escape(percent(m.auc) + (_spread(m.auc_interval) if name == OVERALL else ""))
        for name, m in groups.items()
    ]
    table.add_row("the network", *network, style="bold")
    for scalar, by_group in evaluation.baselines.items():
        cells = [
            escape(percent(s.auc) + (_spread(s.interval) if name == OVERALL else ""))
            for name, s in by_group.items()
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


def notes(evaluation: Evaluation, phase: str, store_baseline: float | None) -> Iterator[str]:
    """What a reader must know beside the tables, one sentence or two each."""
    t = evaluation.threshold
    yield (
        f"Threshold {t.value:.3f}: best balanced accuracy ({100 * t.balanced_accuracy:.1f} %, AUC "
        f"{100 * t.auc:.1f} %) on {t.n_real} + {t.n_fake} self-blended validation clips."
    )
    yield TEST_DATA_USE[phase]
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
        name = group.method or REAL
        where = f"{group.quality}/{name}"
        errors = unreadable(evaluation, group.quality, name)
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
