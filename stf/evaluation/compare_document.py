"""A comparison as a JSON document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from stf.evaluation.compare import BOOTSTRAP_NOTE, DELONG_NOTE, Comparison, Contestant, is_synthetic
from stf.evaluation.document import SYNTHETIC_NOTE, rounded
from stf.evaluation.paired import PairedGroup


def as_document(contestants: Sequence[Contestant], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Everything the comparison found, as plain JSON values; not available is null. Differences are B − A."""
    document = {
        "note": SYNTHETIC_NOTE if is_synthetic(contestants) else None,
        "delong": DELONG_NOTE,
        "bootstrap": BOOTSTRAP_NOTE,
        "runs": {contestant.letter: _contestant(contestant) for contestant in contestants},
        "comparisons": [
            {
                "a": comparison.a.letter,
                "b": comparison.b.letter,
                "qualities": {
                    quality: {name: _group(group) for name, group in groups.items()}
                    for quality, groups in comparison.qualities.items()
                },
                "left_out": _left_out(comparison.pairing.left_out),
            }
            for comparison in comparisons
        ],
    }
    return rounded(document)


def _contestant(contestant: Contestant) -> dict[str, Any]:
    evaluation = contestant.evaluation
    return {
        "name": contestant.name,
        "run_id": contestant.run_id,
        "data_fingerprint": contestant.fingerprint,
        "variant": evaluation.variant,
        "epoch": evaluation.epoch,
        "weights_sha256": evaluation.weights_sha256,
        "clips": evaluation.clips,
        "training": asdict(contestant.costs),
    }


def _group(group: PairedGroup) -> dict[str, Any]:
    return {
        "n_real": group.n_real,
        "n_fake": group.n_fake,
        "delong": None if group.delong is None else asdict(group.delong),
        "bootstrap": None if group.bootstrap is None else asdict(group.bootstrap),
    }


def _left_out(left_out: Mapping[tuple[str, str], Mapping[str, int]]) -> dict[str, dict[str, int]]:
    return {f"{quality}/{method}": dict(counts) for (quality, method), counts in left_out.items()}
