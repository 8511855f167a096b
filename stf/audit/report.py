"""The contents of verify_data's files, metrics/data.json and metrics/leak_audit.json, without times."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the audit imports torch, which takes seconds
    from stf.audit.leak_audit import AuditReport
    from stf.audit.test_set_baselines import Baseline
    from stf.audit.verify import Verification
    from stf.config import AuditParams


def _rounded(values: Any) -> Any:
    """Rounds all floats to six places, so that machines whose last bits differ write equal files."""
    if isinstance(values, float):
        return round(values, 6)
    if isinstance(values, dict):
        return {key: _rounded(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_rounded(value) for value in values]
    return values


def data_json(verification: Verification, root: str, fingerprint: str, ready: bool) -> dict[str, Any]:
    """Builds metrics/data.json; the fingerprint is null unless the data are ready to train on."""
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
    """Returns {'audit.auc.noise_level': …, 'audit.win_rate.noise_level': …}, with names that MLflow accepts."""
    keys = [v.probe.replace(",", "").replace(" ", "_") for v in report.verdicts]
    aucs = {f"audit.auc.{key}": v.auc for key, v in zip(keys, report.verdicts, strict=True)}
    return aucs | {f"audit.win_rate.{key}": v.win_rate for key, v in zip(keys, report.verdicts, strict=True)}


def audit_json(report: AuditReport, baselines: Sequence[Baseline], audit: AuditParams) -> dict[str, Any]:
    """Builds metrics/leak_audit.json."""
    probes = {v.probe: dataclasses.asdict(v) for v in report.verdicts}
    test_videos = {b.measure: dataclasses.asdict(b) for b in baselines}
    for entries, key in ((probes, "probe"), (test_videos, "measure")):
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
            "probes": probes,
            "test_videos": test_videos,
        }
    )
