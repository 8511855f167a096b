"""Split files for own videos: pairs of identities, as FF++ has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stf.data.ffpp import SPLITS, split_file
from stf.data.outputs import write_text
from stf.errors import UsageError

SHARES = {"train": 0.72, "val": 0.14, "test": 0.14}  # FF++'s own


def missing_splits(root: Path) -> list[str]:
    """The split files that the tree lacks."""
    return [split for split in SPLITS if not split_file(root, split).exists()]


def drawn_splits(identities: Sequence[str]) -> dict[str, str]:
    """{identity: split}, 72/14/14 and at least two in each, the same for the same identities.

    Raises UsageError for fewer than six. An identity must be one person: who is filmed in two videos would be in two
    splits, which nothing here can see.
    """
    if len(identities) < 2 * len(SPLITS):
        raise UsageError(
            f"{len(identities)} videos cannot be split: every split needs two; give at least six"
        )
    order = np.random.default_rng(0).permutation(sorted(identities)).tolist()
    n_held = {split: max(2, round(SHARES[split] * len(order))) for split in ("val", "test")}
    bounds = {"val": (0, n_held["val"]), "test": (n_held["val"], n_held["val"] + n_held["test"])}
    split_of = dict.fromkeys(order, "train")
    for split, (start, stop) in bounds.items():
        split_of |= dict.fromkeys(order[start:stop], split)
    return split_of


def write_splits(root: Path, split_of: Mapping[str, str], fake_ids: Sequence[str]) -> None:
    """Writes train.json, val.json and test.json, with the fakes' pairs first.

    Raises UsageError, and writes nothing, when a split would hold fewer than two identities.
    """
    texts = {}
    for split in SPLITS:
        identities = sorted(identity for identity, own in split_of.items() if own == split)
        if len(identities) < 2:
            raise UsageError(f"the split {split!r} has {len(identities)} identities; it needs two")
        pairs = [list(pair) for pair in pairs_of(identities, fake_ids)]
        texts[split] = json.dumps(pairs, indent=1) + "\n"
    for split, text in texts.items():
        write_text(split_file(root, split), text)


def pairs_of(identities: Sequence[str], fake_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Every identity in a pair: those of the fakes, then neighbours of who is left."""
    pairs: dict[tuple[str, str], None] = {}
    for fake_id in fake_ids:
        target, source = fake_id.split("_")
        if target in identities and source in identities and (source, target) not in pairs:
            pairs[target, source] = None
    paired = {identity for pair in pairs for identity in pair}
    left = [identity for identity in identities if identity not in paired]
    if len(left) == 1:
        left.append(next(identity for identity in identities if identity != left[0]))
    pairs |= dict.fromkeys(list(pairwise(left))[::2])
    if len(left) % 2 and len(left) > 1:
        pairs[left[-1], left[0]] = None
    return list(pairs)
