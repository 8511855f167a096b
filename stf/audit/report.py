"""What verify_data writes, without times: the dozen figures that DVC's tables show, and all details beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stf.data.ffpp import SPLITS

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


def data_metrics(verification: Verification, root: str, fingerprint: str, ready: bool) -> dict[str, Any]:
    """Builds metrics/data.json; the fingerprint is null unless the data are ready to train on."""
    counts = verification.counts
    by_split = {f"videos_{split}": sum(c.videos for c in counts if c.split == split) for split in SPLITS}
    return {
        "root": root,
        "ready": ready,
        "fingerprint": fingerprint if ready else None,
        "videos": verification.n_videos,
        **by_split,
        "frames": verification.n_frames,
        "errors": len(verification.errors),
        "warnings": len(verification.defects) - len(verification.errors),
    }


def data_details(verification: Verification) -> dict[str, Any]:
    """Builds metrics/data_details.json: every count and every defect."""
    return {
        "every_checksum": verification.every_byte,
        "counts": [dataclasses.asdict(count) for count in verification.counts],
        "defects": [dataclasses.asdict(defect) for defect in verification.defects],
        "median_motion": _rounded(verification.motion and dataclasses.asdict(verification.motion)),
    }


def tracked_audit(report: AuditReport) -> dict[str, float]:
    """Returns {'audit.auc.noise_level': …, 'audit.win_rate.noise_level': …}, with names that MLflow accepts."""
    keys = [v.probe.replace(",", "").replace(" ", "_") for v in report.verdicts]
    aucs = {f"audit.auc.{key}": v.auc for key, v in zip(keys, report.verdicts, strict=True)}
    return aucs | {f"audit.win_rate.{key}": v.win_rate for key, v in zip(keys, report.verdicts, strict=True)}


def audit_metrics(report: AuditReport) -> dict[str, Any]:
    """Builds metrics/leak_audit.json: the verdict, and the figures of the probe that is farthest from .5."""
    return _rounded(
        {
            "audit_passed": not report.leaking,
            "audit_pairs": report.n_pairs,
            "audit_pairs_replaced": report.n_replaced,  # for lack of background
            "audit_probes": len(report.verdicts),
            "audit_leaking": len(report.leaking),
            "audit_farthest_auc": max((v.auc for v in report.verdicts), key=_from_half),
            "audit_farthest_win_rate": max((v.win_rate for v in report.verdicts), key=_from_half),
        }
    )


def _from_half(share: float) -> float:
    return abs(share - 0.5)


def audit_details(report: AuditReport, baselines: Sequence[Baseline], audit: AuditParams) -> dict[str, Any]:
    """Builds metrics/leak_audit_details.json: every probe, on Video-SBI's pairs and on the test videos."""
    probes = {v.probe: dataclasses.asdict(v) for v in report.verdicts}
    measures = {b.measure: dataclasses.asdict(b) for b in baselines}
    for entries, key in ((probes, "probe"), (measures, "measure")):
        for entry in entries.values():
            del entry[key]
    return _rounded(
        {
            "leaking": list(report.leaking),
            "auc_tolerance": audit.auc_tolerance,
            "win_rate_tolerance": audit.win_rate_tolerance,
            "probes": probes,
            "test_videos": measures,
        }
    )
