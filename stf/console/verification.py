"""The tables of verify_data: videos on disk, defects, leak audit; at most 100 columns wide."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from stf.console.tables import WIDTH
from stf.io.values import printable

if TYPE_CHECKING:  # the audit imports torch, which takes seconds
    from rich.console import Console

    from stf.audit.leak_audit import AuditReport
    from stf.audit.test_set_baselines import Baseline
    from stf.audit.verify import Verification
    from stf.audit.video_check import Defect
    from stf.config import AuditParams

MAX_ROWS_PER_KIND = 20
_STYLES = {"error": "red", "warning": "yellow"}


def print_counts(console: Console, verification: Verification) -> None:
    """A line per quality: 'c23: train 20 real; val 6 real; test 16 real, 64 fake'."""
    counts = verification.counts
    for quality in dict.fromkeys(count.quality for count in counts):
        by_split: dict[str, Counter[str]] = {}
        for c in counts:
            if c.quality == quality:
                label = "real" if c.method == "real" else "fake"
                by_split.setdefault(c.split, Counter())[label] += c.videos
        splits = (
            f"{split} {', '.join(f'{n:,} {label}' for label, n in by_label.items())}"
            for split, by_label in by_split.items()
        )
        console.print(f"{quality}: {'; '.join(splits)}")


def print_audit(console: Console, report: AuditReport) -> None:
    """The verdict in a line, with the probe that is farthest from chance."""
    farthest = max(report.verdicts, key=lambda verdict: abs(verdict.win_rate - 0.5))
    verdict = f"[red]failed[/], {len(report.leaking)} of" if report.leaking else "passed:"
    console.print(
        f"leak audit {verdict} {len(report.verdicts)} probes on {report.n_pairs} pairs; farthest from chance: "
        f"{farthest.probe}, {farthest.win_rate:.1%}"
    )


def counts_table(verification: Verification) -> Table:
    """Builds the table of videos and frames per split, method and quality, and how they were checked."""
    depth = "all checksums" if verification.every_byte else "headers, some frames"
    table = Table(title="Videos on disk", width=WIDTH)
    for name in ("split", "method", "quality"):
        table.add_column(name)
    for name in ("videos", "frames"):
        table.add_column(name, justify="right")
    table.add_column("checked")
    for c in verification.counts:
        checked = depth if c.opened else "counted only (not used)"
        table.add_row(c.split, c.method, c.quality, f"{c.videos:,}", f"{c.frames:,}", checked)
    return table


def defects_table(defects: Sequence[Defect]) -> Table:
    """Builds the table of defects, errors first; after 20 rows of one kind, one row counts the rest."""
    table = Table(title="Defects", width=WIDTH)
    for name, limit in (("severity", None), ("defect", 20), ("where", 28), ("first occurrence", None)):
        table.add_column(name, max_width=limit, overflow="fold")
    table.add_column("n", justify="right")
    per_kind: Counter[tuple[str, str]] = Counter()
    totals = Counter((d.severity, d.what) for d in defects)
    for d in defects:
        kind = (d.severity, d.what)
        per_kind[kind] += 1
        if per_kind[kind] <= MAX_ROWS_PER_KIND:
            cells = (d.severity, d.what, d.where, d.detail, str(d.n))
        elif per_kind[kind] == totals[kind]:
            rest = totals[kind] - MAX_ROWS_PER_KIND
            cells = (d.severity, d.what, f"… {rest} more", "see metrics/data_details.json for all", "")
        else:
            continue
        table.add_row(*(escape(printable(cell)) for cell in cells), style=_STYLES[d.severity])
    return table


def audit_table(report: AuditReport, audit: AuditParams) -> Table:
    """Builds one row per probe: pooled AUC, within-pair win rate with its 99.9 % interval, verdict."""
    title = f"Leak audit: {report.n_pairs} Video-SBI pairs, face and 32 px around it masked"
    limits = f"leaks if the AUC is outside .50 ± {audit.auc_tolerance:.2f} or the interval outside .50 ± "
    table = Table(title=title, caption=f"{limits}{audit.win_rate_tolerance:.2f}", width=WIDTH)
    table.add_column("probe")
    for name in ("AUC", "fake larger", "99.9 % interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for v in report.verdicts:
        verdict = "[red]leaks the label[/]" if v.leaks else "[green]no leak[/]"
        table.add_row(v.probe, f"{v.auc:.3f}", f"{v.win_rate:.3f}", f"{v.low:.3f} – {v.high:.3f}", verdict)
    return table


def baselines_table(baselines: Sequence[Baseline], synthetic: bool) -> Table:
    """Builds the table of the same probes on the test videos."""
    videos = "synthetic test videos" if synthetic else "test videos"
    n = f"{baselines[0].n_real} real, {baselines[0].n_fake} fake"
    table = Table(title=f"The same probes on the {videos} ({n}): for comparison, no verdict", width=WIDTH)
    methods = list(baselines[0].auc_by_method)
    table.add_column("probe")
    for name in ("AUC", *methods, "fake larger"):
        table.add_column(name, justify="right", overflow="fold")
    for b in baselines:
        aucs = [b.auc_by_method.get(method) for method in methods]
        table.add_row(b.measure, *(_three_decimals(value) for value in (b.auc, *aucs, b.win_rate)))
    return table


def _three_decimals(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"
