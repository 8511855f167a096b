"""One tree and one evaluation for all tests of this folder; they only read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from stf.evaluation.results import Evaluation, evaluate
from tests.reference.evaluation_sets import params_for, scorer_for, write_three_pairs


@pytest.fixture(scope="session")
def three_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six real test videos and the fakes of two methods, raw and c23."""
    return write_three_pairs(tmp_path_factory.mktemp("three_pairs"))


@pytest.fixture(scope="session")
def evaluated(three_pairs: Path) -> Evaluation:
    """The evaluation of a network that looks at redness, with the self-blended sets."""
    params = params_for(three_pairs)
    methods = params.evaluation.methods
    return evaluate(scorer_for(three_pairs), 7, params, methods, gate_threshold=0.7, sbi_test=True)
