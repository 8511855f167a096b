"""`make drill` in brief: a few kills, some while a checkpoint is written, under dvc repro and without DVC."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.drill.__main__ import passed, uninterrupted
from tests.drill.chain import Moment, run_chain
from tests.drill.scenarios import Scenario, processes, start
from tests.drill.scratch import Clone, Outcome, make_template, new_clone, set_seed

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]
EPOCHS = 3
DRILLS = {
    Scenario("python", "sigterm"): [Moment("any", 12.0), Moment("writing", 5.0)],
    Scenario("repro", "both"): [Moment("writing", 10.0), Moment("end", 0.5)],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return make_template(tmp_path_factory.mktemp("drill"), EPOCHS)


@pytest.fixture(scope="module")
def expected(template: Clone) -> Outcome:
    return uninterrupted(template, template.path.with_name("uninterrupted"))[1]


def test_killed_trainings_end_like_an_uninterrupted_one(
    template: Clone, expected: Outcome, tmp_path: Path
) -> None:
    assert len(expected.rows) == EPOCHS
    with ThreadPoolExecutor(len(DRILLS)) as pool:
        chains = pool.map(
            lambda scenario: run_chain(
                new_clone(template, tmp_path / scenario.launcher), scenario, DRILLS[scenario], expected, print
            ),
            DRILLS,
        )
        for chain in chains:
            assert passed(chain), chain
            assert chain.kills
            assert not processes(Clone(tmp_path / chain.scenario.launcher, ""))


def test_a_second_trainer_waits_and_is_then_refused_with_the_firsts_process_number(
    template: Clone, tmp_path: Path
) -> None:
    clone = new_clone(template, tmp_path / "twice")
    set_seed(clone)
    log = tmp_path / "first.log"
    first = start(clone, "python", log)
    try:
        while not list(clone.path.glob("checkpoints/*/trainer.json")):
            assert first.poll() is None, log.read_text()
        os.kill(first.pid, 19)  # SIGSTOP: it keeps the folder locked
        second = subprocess.run(
            ["python", "-m", "pipeline.train_phase_a"],
            cwd=clone.path, env=clone.env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        (holder,) = clone.path.glob("checkpoints/*/trainer.json")
        assert second.returncode == 1
        assert f"process {json.loads(holder.read_text())['pid']} " in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        for process in processes(clone):
            process.kill()
