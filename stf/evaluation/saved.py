"""An evaluation read back from its files: the JSON document and the CSV of scores beside it."""

from __future__ import annotations

import io
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from stf.errors import DataError
from stf.evaluation.outputs import Outputs
from stf.io.files import read_bounded, read_json

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
    """Reads `DIR/NAME.json` and `DIR/NAME_scores.csv`; raises DataError naming the file that is none."""
    document_path = Path(path)
    document = _read_document(document_path)
    scores_path = Outputs.beside(document_path).scores
    try:
        checkpoint = document["checkpoint"]
        return SavedEvaluation(
            variant=_text(checkpoint["variant"]),
            epoch=_count(checkpoint["epoch"]),
            quality=_text(document["quality"]),
            clips={name: _count(value) for name, value in document["clips"].items()},
            is_synthetic=document["note"] is not None,
            weights_sha256=_text(checkpoint["weights_sha256"]),
            table=_read_scores(scores_path),
        )
    except KeyError as error:
        raise DataError(f"{document_path} is no evaluation's document: it lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise DataError(f"{document_path} is no evaluation's document: {error}") from None


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT or not value.isprintable():
        raise TypeError(f"{reprlib.repr(value)} stands where a short text belongs")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_COUNT:
        raise TypeError(f"{reprlib.repr(value)} stands where a number of things belongs")
    return value


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = read_json(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {str(error)[:200]}; evaluate again") from None
    if not isinstance(document, dict):
        raise DataError(f"{path} is no evaluation's document")
    return document


def _read_scores(path: Path) -> pd.DataFrame:
    wanted = [*_TEXT_COLUMNS, "label", "score"]
    try:
        content = io.BytesIO(read_bounded(path, MAX_SCORES_BYTES))
        kinds: Any = dict.fromkeys(_TEXT_COLUMNS, str) | {"label": int, "score": float}
        table = pd.read_csv(content, dtype=kinds, usecols=wanted)
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
