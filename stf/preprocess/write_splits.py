"""Writes split files for the user's own videos: pairs of identities, as in FF++."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from stf.data.ffpp import SPLITS, split_file
from stf.errors import UsageError
from stf.io.outputs import write_text

SHARES = {"train": 0.72, "val": 0.14, "test": 0.14}  # FF++'s own


def missing_splits(root: Path) -> list[str]:
    """Returns the splits whose file is missing."""
    return [split for split in SPLITS if not split_file(root, split).exists()]


def draw_splits(identities: Sequence[str], fake_ids: Sequence[str] = ()) -> dict[str, str]:
    """Draws {person: split}, 72/14/14 of `identities` and at least two in each; equal input gives equal splits.

    `identities` have a real video; `fake_ids` are TARGET_SOURCE. People linked by fakes are in one split. Such groups
    go to test first, as far as there is room, because fakes are only used for testing. Every identity must be a
    different person: somebody filmed in two videos could be in two splits, which cannot be detected here. Raises
    UsageError for fewer than six identities, or when fakes link so many people that a split would have fewer than two.
    """
    if len(identities) < 2 * len(SPLITS):
        raise UsageError(
            f"{len(identities)} real videos cannot be split: every split needs two; give at least six"
        )
    order = np.random.default_rng(0).permutation(sorted(identities)).tolist()
    room = {split: max(2, round(SHARES[split] * len(order))) for split in ("val", "test")}
    split_of: dict[str, str] = {}
    n_of: dict[str, int] = dict.fromkeys(SPLITS, 0)
    for group, n_real in _groups(order, fake_ids):
        preferred = ("val", "test") if len(group) == 1 else ("test",)
        with_room = next((split for split in preferred if n_of[split] + n_real <= room[split]), "train")
        split = "test" if n_real == 0 or (len(group) > 1 and n_of["test"] == 0) else with_room
        split_of |= dict.fromkeys(group, split)
        n_of[split] += n_real
    if min(n_of.values()) < 2:
        raise UsageError(
            "the fakes link too many people to draw disjoint splits; set the splits in a --table"
        )
    return split_of


def _groups(order: Sequence[str], fake_ids: Sequence[str]) -> list[tuple[list[str], int]]:
    """Groups people linked by fakes, directly or indirectly; returns (group, number of members in `order`).

    Linked groups come first, small before large.
    """
    pairs = [tuple(fake_id.split("_")) for fake_id in sorted(fake_ids)]
    others = sorted({person for pair in pairs for person in pair}.difference(order))
    group_of = {person: [person] for person in (*order, *others)}
    for target, source in pairs:
        if group_of[target] is not group_of[source]:
            group_of[target] += group_of[source]
            group_of |= dict.fromkeys(group_of[source], group_of[target])
    known = set(order)
    groups = {id(group): (group, len(known.intersection(group))) for group in group_of.values()}
    return sorted(groups.values(), key=lambda group: (len(group[0]) == 1, group[1]))


def write_splits(root: Path, split_of: Mapping[str, str], fake_ids: Sequence[str]) -> None:
    """Writes train.json, val.json and test.json, with the fakes' pairs first.

    Raises UsageError, and writes nothing, when a split would hold fewer than two identities.
    """
    texts = {}
    for split in SPLITS:
        identities = sorted(identity for identity, own in split_of.items() if own == split)
        if len(identities) < 2:
            raise UsageError(f"the split {split!r} has {len(identities)} identities; give it at least two")
        pairs = [list(pair) for pair in pairs_of(identities, fake_ids)]
        texts[split] = json.dumps(pairs, indent=1) + "\n"
    for split, text in texts.items():
        write_text(split_file(root, split), text)


def pairs_of(identities: Sequence[str], fake_ids: Sequence[str]) -> list[tuple[str, str]]:
    """Puts every identity into a pair: first the fakes' pairs, then neighbours among the remaining ones."""
    pairs: dict[tuple[str, str], None] = {}
    for fake_id in fake_ids:
        target, source = fake_id.split("_")
        if target in identities and source in identities and (source, target) not in pairs:
            pairs[target, source] = None
    paired = {identity for pair in pairs for identity in pair}
    unpaired = [identity for identity in identities if identity not in paired]
    if len(unpaired) == 1:
        unpaired.append(next(identity for identity in identities if identity != unpaired[0]))
    pairs |= dict.fromkeys(list(pairwise(unpaired))[::2])
    if len(unpaired) % 2 and len(unpaired) > 1:
        pairs[unpaired[-1], unpaired[0]] = None
    return list(pairs)
