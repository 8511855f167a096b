"""`python -m pipeline.ablate`: what it queues, what it leaves out, and what it clears away. DVC itself is played."""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.ablate import main
from stf.config import PHASE_A_FLAGS, Params
from stf.errors import TrainingError
from stf.evaluation import ablation_queue
from stf.evaluation.ablation import ROWS
from tests.reference.comparison_sets import FINGERPRINT, score_table, store_both

STATUS = """Task     Name         Created    Status
a6b0d7f  grid-a-s1    07:01 PM   Failed
8330395  grid-v73-s1  07:01 PM   {state}
177bf29  mine         06:58 PM   Queued

Worker status: 0 active, 0 idle
"""


class Dvc:
    """Records what would be run; working the queue off stores a run for every experiment queued."""

    def __init__(self, root, state="Queued", works=True):
        self.root, self.state, self.works, self.calls = root, state, works, []

    def __call__(self, arguments, environment, *, quiet=False):
        self.calls.append(list(arguments))
        if arguments[-2:] == ["--jobs", "2"] and self.works:
            for call in self.calls:
                if "--queue" in call:
                    on = [part for part in call if part.endswith("=true")]
                    flags = tuple(part.removeprefix("phase_a.").removesuffix("=true") for part in on)
                    seed = int(next(part for part in call if part.startswith("seed=")).removeprefix("seed="))
                    store_both(self.root, flags, score_table(0.5), seed=seed)
        text = {"queue status": STATUS.format(state=self.state), "exp list": "mine\ngrid-v73-s1\n"}
        return text.get(" ".join(arguments[:2]), "")


@pytest.fixture
def repository(repository_root):
    """A repository whose store holds phase A with seed 0."""
    Path("metrics").mkdir()
    Path("metrics/data.json").write_text(json.dumps({"fingerprint": FINGERPRINT}))
    Path("params.yaml").write_text("seed: 3\n")
    store_both(repository_root, PHASE_A_FLAGS, score_table(0.5), seed=0)
    return repository_root


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments), catch_exceptions=False)


def test_the_whole_grid_but_what_the_store_holds(repository):
    lines = invoke("--dry-run").output.splitlines()
    assert lines[0] == "33 experiments, 1 of them in the store already"
    assert len(lines) == 1 + 32 + 1
    assert lines[-1] == "dvc exp run --run-all --jobs 1"
    names = [line.split()[5] for line in lines[1:-1]]
    assert names[:2] == ["grid-v73-s0", "grid-v73-contrastive-s0"]
    assert set(names) == {row.experiment(seed) for row in ROWS for seed in (0, 1, 2)} - {"grid-a-s0"}
    assert all(line.endswith(" eval_a") for line in lines[1:-1])


def test_force_leaves_nothing_out_and_other_parameters_make_other_runs(repository):
    forced = invoke("--dry-run", "--force", "--rows", "a", "--seeds", "0").output
    assert "dvc exp run --queue --name grid-a-s0 --force -S seed=0" in forced
    longer = dataclasses.replace(Params(), phase_a=dataclasses.replace(Params().phase_a, epochs=99))
    Path("params.yaml").write_text(f"phase_a:\n  epochs: {longer.phase_a.epochs}\n")
    assert "0 of them in the store" in invoke("--dry-run", "--rows", "a").output


def test_it_replaces_its_own_experiments_queues_them_and_runs_them(repository, monkeypatch):
    dvc = Dvc(repository)
    monkeypatch.setattr(ablation_queue, "dvc", dvc)
    result = invoke("--rows", "v73,a", "--seeds", "1", "--jobs", "2")
    assert result.exit_code == 0, result.output
    assert dvc.calls[1] == ["queue", "remove", "grid-a-s1", "grid-v73-s1"]
    assert dvc.calls[3] == ["exp", "remove", "grid-v73-s1"]
    assert [call[4] for call in dvc.calls[4:6]] == ["grid-v73-s1", "grid-a-s1"]
    assert dvc.calls[6] == ["exp", "run", "--run-all", "--jobs", "2"]
    assert "2 of them in the store already" in invoke("--rows", "v73,a", "--seeds", "1").output
    assert len(dvc.calls) == 7  # nothing due, nothing run


def test_experiments_without_a_run_are_reported(repository, monkeypatch):
    monkeypatch.setattr(ablation_queue, "dvc", Dvc(repository, works=False))
    result = invoke("--rows", "v73", "--seeds", "0,1", "--jobs", "2")
    assert result.exit_code == 1
    assert "2 of 2 experiments left no evaluated run: grid-v73-s0, grid-v73-s1" in result.output


def test_a_grid_that_runs_already_is_left_alone(repository, monkeypatch):
    dvc = Dvc(repository, state="Running")
    monkeypatch.setattr(ablation_queue, "dvc", dvc)
    result = invoke("--rows", "v73", "--seeds", "1")
    assert (result.exit_code, len(dvc.calls)) == (1, 1)
    assert "grid-v73-s1 is running already" in result.output


def test_stages_run_with_this_python_and_git_has_an_identity(repository, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    environment = ablation_queue.dvc_environment({"PATH": "/bin", "GIT_AUTHOR_NAME": "me"})
    assert environment["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/bin"]
    assert (environment["GIT_AUTHOR_NAME"], environment["GIT_COMMITTER_NAME"]) == ("me", "stf-mamba")
    assert environment["GIT_COMMITTER_EMAIL"] == environment["GIT_AUTHOR_EMAIL"] == "stf-mamba@localhost"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--rows", "v74"), 2, 'no row "v74" (did you mean "v73"?)'),
        (("--seeds", "0;1"), 2, "whole numbers"),
        (("--seeds", "-1"), 2, "--seeds: seed is -1; it must be greater than or equal to 0"),
        (("--seeds", "1,99999999999999999999999"), 2, "a number of 77 bits"),
        (("--seeds", ""), 2, "whole numbers"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(repository, arguments, code, message):
    result = invoke("--dry-run", *arguments)
    assert (result.exit_code, message in result.output) == (code, True), result.output
    assert len(result.output.splitlines()) == 1


def test_outside_a_repository_is_an_error(repository_root):
    assert "params.yaml does not exist" in invoke("--dry-run").output
    Path("params.yaml").write_text("seed: 0\n")
    result = invoke("--dry-run")
    assert (result.exit_code, "has not been verified" in result.output) == (1, True)


def test_a_dvc_command_that_fails_is_reported(repository):
    with pytest.raises(TrainingError, match="dvc exp list failed"):
        ablation_queue.dvc(["exp", "list"], os.environ, quiet=True)  # no DVC repository here
