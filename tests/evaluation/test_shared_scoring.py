"""Several processes that score together: the tables of one process, to the last bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import torch

from stf.config import FLAGS, STFV8Config
from stf.evaluation.predict import ClipScorer
from stf.evaluation.results import Evaluation, evaluate
from stf.io.distributed import World
from stf.models.network import build_network
from tests.reference.evaluation_sets import params_for
from tests.reference.worlds import play


def test_an_evaluation_by_several_processes_is_that_of_one(three_pairs: Path) -> None:
    config = dataclasses.replace(
        STFV8Config.debug(), data_root=str(three_pairs), **dict.fromkeys(FLAGS, True)
    )
    torch.manual_seed(0)
    network = build_network(config)
    params, methods = params_for(three_pairs, bootstrap_samples=100), ("Deepfakes", "FaceSwap")

    def part(world: World) -> Evaluation:
        torch.set_num_threads(1)  # of this thread: the number of threads is a matter of rounding
        scorer = ClipScorer(network, config, world=world)
        return evaluate(scorer, 1, params, methods, sbi_test=True)

    wanted = part(World())
    assert wanted.open_shares
    assert len(wanted.self_blended) == 2
    for evaluation in play(2, part):
        pd.testing.assert_frame_equal(evaluation.table, wanted.table, check_exact=True)
        for name in ("threshold", "qualities", "baselines", "self_blended", "open_shares"):
            assert getattr(evaluation, name) == getattr(wanted, name), name
