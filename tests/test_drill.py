"""`make drill` in short: a few kills, one of them while a state is being written, under dvc repro and without DVC."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.drill.__main__ import is_good, undisturbed
from tests.drill.chain import Moment, run_chain
from tests.drill.scratch import Outcome, Place, make_template, new_place, set_seed
from tests.drill.ways import Way, processes, start

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("kills")]
EPOCHS = 3
DRILLS = {
    Way("python", "sigterm"): [Moment("any", 12.0), Moment("writing", 5.0)],
    Way("repro", "both"): [Moment("writing", 10.0), Moment("end", 0.5)],
}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_template(tmp_path_factory.mktemp("drill"), EPOCHS)


@pytest.fixture(scope="module")
def expected(template: Place) -> Outcome:
    return undisturbed(template, template.path.with_name("undisturbed"))[1]


def test_killed_trainings_end_as_an_undisturbed_one(
    template: Place, expected: Outcome, tmp_path: Path
) -> None:
    assert len(expected.rows) == EPOCHS
    with ThreadPoolExecutor(len(DRILLS)) as pool:
        chains = pool.map(
            lambda way: run_chain(
                new_place(template, tmp_path / way.launcher), way, DRILLS[way], expected, print
            ),
            DRILLS,
        )
        for chain in chains:
            assert is_good(chain), chain
            assert chain.kills
            assert not processes(Place(tmp_path / chain.way.launcher, ""))


def test_a_second_trainer_waits_and_is_then_refused_by_name(template: Place, tmp_path: Path) -> None:
    place = new_place(template, tmp_path / "twice")
    set_seed(place)
    log = tmp_path / "first.log"
    first = start(place, "python", log)
    try:
        while not list(place.path.glob("checkpoints/*/trainer.json")):
            assert first.poll() is None, log.read_text()
        os.kill(first.pid, 19)  # SIGSTOP: it holds the folder for as long as it takes
        second = subprocess.run(
            ["python", "-m", "pipeline.train_phase_a"],
            cwd=place.path, env=place.env(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        (holder,) = place.path.glob("checkpoints/*/trainer.json")
        assert second.returncode == 1
        assert f"process {json.loads(holder.read_text())['pid']} " in second.stderr
        assert "Traceback" not in second.stderr
    finally:
        for process in processes(place):
            process.kill()
