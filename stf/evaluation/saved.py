"""An evaluation read back from its files: the JSON document and the CSV of scores beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stf.errors import DataError
from stf.evaluation.outputs import Outputs

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
    """Reads `DIR/NAME.json` and `DIR/NAME_scores.csv`; raises DataError naming the file that is none."""
    document_path = Path(path)
    document = _read_document(document_path)
    scores_path = Outputs.beside(document_path).scores
    try:
        return SavedEvaluation(
            variant=str(document["checkpoint"]["variant"]),
            epoch=int(document["checkpoint"]["epoch"]),
            quality=str(document["quality"]),
            clips={name: int(value) for name, value in document["clips"].items()},
            is_synthetic=document["note"] is not None,
            weights_sha256=str(document["checkpoint"]["weights_sha256"]),
            table=_read_scores(scores_path),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{document_path} is no evaluation's document: it lacks {error}") from None


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is no evaluation's document")
    return document


def _read_scores(path: Path) -> pd.DataFrame:
    wanted = [*_TEXT_COLUMNS, "label", "score"]
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(_TEXT_COLUMNS, str), usecols=wanted)
        table = table.astype({"label": int, "score": float})
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; an evaluation's scores lie beside its JSON") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a score table: {error}") from None
    if not set(table["label"]) <= {0, 1}:
        raise DataError(f"{path} holds a label that is neither 0 nor 1")
    twice = table[table.duplicated(_KEY)]
    if len(twice):
        raise DataError(f"{path} holds {'/'.join(twice.iloc[0][_KEY])} twice")
    return table
