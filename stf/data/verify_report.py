"""What verify_data shows and writes: tables of at most 100 columns, and JSON without times."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stf.config import AuditParams
from stf.values import printable

if TYPE_CHECKING:  # the audit imports torch, which a command can do while the sample is generated
    from stf.data.audit_test_videos import Baseline
    from stf.data.leak_audit import AuditReport
    from stf.data.verify import Verification
    from stf.data.video_check import Defect

WIDTH = 100
MAX_ROWS_PER_KIND = 20
_STYLES = {"error": "red", "warning": "yellow"}


def make_console() -> Console:
    """A recording console of at most 100 columns; exactly 100 where the output is no terminal."""
    console = Console()
    width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    return Console(width=width, highlight=False, record=True)


def counts_table(verification: Verification) -> Table:
    """Videos and frames per split, method and quality, and how they were checked."""
    depth = "every checksum" if verification.every_byte else "headers, some frames"
    table = Table(title="What is on disk", width=WIDTH)
    for name in ("split", "method", "quality"):
        table.add_column(name)
    for name in ("videos", "frames"):
        table.add_column(name, justify="right")
    table.add_column("checked")
    for c in verification.counts:
        checked = depth if c.opened else "counted (no stage reads them)"
        table.add_row(c.split, c.method, c.quality, f"{c.videos:,}", f"{c.frames:,}", checked)
    return table


def defects_table(defects: Sequence[Defect]) -> Table:
    """Every defect, errors first; a kind met more than 20 times ends in a row that counts the rest."""
    table = Table(title="Defects", width=WIDTH)
    for name, limit in (("severity", None), ("defect", 20), ("where", 28), ("first of it", None)):
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
            cells = (d.severity, d.what, f"… {rest} more", "all of them stand in metrics/data.json", "")
        else:
            continue
        table.add_row(*(escape(printable(cell)) for cell in cells), style=_STYLES[d.severity])
    return table


def audit_table(report: AuditReport, audit: AuditParams) -> Table:
    """One row per probe: pooled AUC, within-pair win rate with its 99.9 % interval, verdict."""
    title = f"Leak audit: {report.n_pairs} pairs of Video-SBI, face and 32 px around it greyed"
    limits = f"fails: AUC outside .50 ± {audit.auc_tolerance:.2f}, or interval outside .50 ± "
    table = Table(title=title, caption=f"{limits}{audit.win_rate_tolerance:.2f}", width=WIDTH)
    table.add_column("probe")
    for name in ("AUC", "fake larger", "99.9 % interval"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for v in report.verdicts:
        verdict = "[red]tells the label[/]" if v.leaks else "[green]no leak[/]"
        table.add_row(v.probe, f"{v.auc:.3f}", f"{v.win_rate:.3f}", f"{v.low:.3f} – {v.high:.3f}", verdict)
    return table


def baselines_table(baselines: Sequence[Baseline], synthetic: bool) -> Table:
    """The same probes on the test videos; an AUC far from .5 either way needs no face."""
    of = "synthetic test videos" if synthetic else "test videos"
    n = f"{baselines[0].n_real} real, {baselines[0].n_fake} fake"
    table = Table(title=f"The same probes on the {of} ({n}): descriptive, no verdict", width=WIDTH)
    methods = list(baselines[0].auc_by_method)
    table.add_column("probe")
    for name in ("AUC", *methods, "fake larger"):
        table.add_column(name, justify="right", overflow="fold")
    for b in baselines:
        aucs = [b.auc_by_method.get(method) for method in methods]
        table.add_row(b.measure, *(_three(value) for value in (b.auc, *aucs, b.win_rate)))
    return table


def _three(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _rounded(values: Any) -> Any:
    """The same nest of dicts and lists with floats at six places: equal on machines whose last bits differ."""
    if isinstance(values, float):
        return round(values, 6)
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return values


def data_json(verification: Verification, root: str, fingerprint: str, ready: bool) -> dict[str, Any]:
    """metrics/data.json; the fingerprint is null unless the data may be trained on."""
    return {
        "root": root,
        "ready": ready,
        "fingerprint": fingerprint if ready else None,
        "videos": verification.n_videos,
        "frames": verification.n_frames,
        "every_checksum": verification.every_byte,
        "counts": [dataclasses.asdict(count) for count in verification.counts],
        "errors": len(verification.errors),
        "warnings": len(verification.defects) - len(verification.errors),
        "defects": [dataclasses.asdict(defect) for defect in verification.defects],
        "median_motion": _rounded(verification.motion and dataclasses.asdict(verification.motion)),
    }


def audit_metrics(report: AuditReport) -> dict[str, float]:
    """{'audit.auc.noise_level': …, 'audit.win_rate.noise_level': …}, in names that MLflow takes."""
    keys = [v.probe.replace(",", "").replace(" ", "_") for v in report.verdicts]
    aucs = {f"audit.auc.{key}": v.auc for key, v in zip(keys, report.verdicts, strict=True)}
    return aucs | {f"audit.win_rate.{key}": v.win_rate for key, v in zip(keys, report.verdicts, strict=True)}


def audit_json(report: AuditReport, baselines: Sequence[Baseline], audit: AuditParams) -> dict[str, Any]:
    """metrics/leak_audit.json."""
    named = {v.probe: dataclasses.asdict(v) for v in report.verdicts}
    measured = {b.measure: dataclasses.asdict(b) for b in baselines}
    for entries, key in ((named, "probe"), (measured, "measure")):
        for entry in entries.values():
            del entry[key]
    return _rounded(
        {
            "passed": not report.leaking,
            "leaking": list(report.leaking),
            "pairs": report.n_pairs,
            "pairs_replaced_for_lack_of_background": report.n_replaced,
            "auc_tolerance": audit.auc_tolerance,
            "win_rate_tolerance": audit.win_rate_tolerance,
            "probes": named,
            "test_videos": measured,
        }
    )
