"""The evaluation commands from top to bottom: checkpoint → scores → files → console → tracking → gate."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

from rich.console import Console
from rich.progress import track as progress

from stf.config import Params, PhaseName
from stf.console.evaluation import print_report
from stf.console.tables import make_console
from stf.data.ffpp import require_fingerprint
from stf.evaluation.clips import parse_methods
from stf.evaluation.options import weights_of
from stf.evaluation.outputs import Outputs, choose_outputs, tracked_metrics, write_gate, write_report
from stf.evaluation.predict import ClipScorer
from stf.evaluation.results import TEST_DATA_USE, Evaluation, evaluate
from stf.io.distributed import World
from stf.io.paths import DATA_JSON
from stf.io.processes import set_up_process
from stf.models.checkpoint import read_checkpoint
from stf.tracking.baseline import baseline_auc
from stf.tracking.run import TrackedRun, track

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Request:
    """The values of a command's options."""

    phase: PhaseName
    checkpoint: str
    params_path: str
    methods: tuple[str, ...]
    output: str | None
    sbi_test: bool
    verbose: bool = False

    def changed(self) -> tuple[str, ...]:
        """The options whose value is not the default: the result is then not the pipeline's own."""
        is_default = {
            "--checkpoint": os.path.realpath(self.checkpoint) == os.path.realpath(weights_of(self.phase)),
            "--params": os.path.realpath(self.params_path) == os.path.realpath(PARAMS),
            "--methods": not self.methods,
            "--sbi-test": not self.sbi_test,
        }
        return tuple(name for name, same in is_default.items() if not same)


def run_evaluation(
    request: Request, params: Params, world: World, gate_threshold: float | None = None
) -> None:
    """Scores the checkpoint, prints the report, writes the files, and logs to MLflow.

    Several processes score together; rank 0 does the rest. With `gate_threshold` the plain command also writes the
    gate of phase B. Raises what stf.evaluation raises.
    """
    outputs = choose_outputs(request.phase, request.output, changed=request.changed())
    methods = parse_methods(request.methods) or params.evaluation.methods
    device = set_up_process(params.runtime, world)
    fingerprint = require_fingerprint(params.data.root, DATA_JSON)
    world.require_same("the data's fingerprint", fingerprint)
    checkpoint = read_checkpoint(request.checkpoint)
    model, config = checkpoint.build(device), checkpoint.config
    scorer = ClipScorer(model, config, device, params.runtime.num_workers, world)
    console = make_console()
    evaluated = functools.partial(
        evaluate,
        scorer,
        checkpoint.epoch,
        params,
        methods,
        gate_threshold=gate_threshold,
        sbi_test=request.sbi_test,
        watch=functools.partial(progress, console=console, transient=True, disable=not console.is_terminal),
    )
    if not world.is_main:
        evaluated()
        return
    stage = f"eval_{request.phase}"
    with track(stage, params=params, config=config, fingerprint=fingerprint, device=device) as run:
        run.tie_weights(checkpoint.sha256)
        run.tag("ssm_backend", model.ssm_backend)
        _report(evaluated(), request, outputs, console, run, fingerprint, checkpoint.sha256)


def _report(
    evaluation: Evaluation,
    request: Request,
    outputs: Outputs,
    console: Console,
    run: TrackedRun,
    fingerprint: str,
    weights_sha256: str,
) -> None:
    """Files, console and MLflow; the gate last, because it can refuse."""
    written = write_report(evaluation, outputs, request.phase, weights_sha256)
    test_data_use = TEST_DATA_USE[request.phase]
    print_report(
        console,
        evaluation,
        request.phase,
        test_data_use,
        baseline_auc(fingerprint),
        verbose=request.verbose,
    )
    run.log_evaluation(tracked_metrics(evaluation), weights_sha256)
    for path in written:
        run.artifact(path, "evaluation")
    console.print(
        f"• Written: {outputs.metrics}; details, scores and plots beside it", markup=False, soft_wrap=True
    )
    write_gate(evaluation, outputs)
