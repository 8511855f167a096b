"""Phase A on real deepfakes: figures per method, plots, and the gate of phase B."""

from __future__ import annotations

import click

from pipeline.common import command, load_params, params_option, set_up_runtime

PHASE = "a"
CHECKPOINT = "weights/phase_a.pt"
PARAMS = "params.yaml"
DATA_JSON = "metrics/data.json"


@command
@click.option(
    "--checkpoint",
    default=CHECKPOINT,
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The weights to score; network, clip length and size come from the file itself.",
)
@params_option
@click.option(
    "--methods",
    multiple=True,
    metavar="NAME[,NAME…]",
    help="Score only these manipulation methods. [default: evaluation.methods]",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False),
    help="The JSON file; CSV and plots go beside it. [default: metrics/eval_a.json, or tmp/eval_a/eval_a.json when "
    "another option differs from its default]",
)
@click.option(
    "--sbi-test",
    is_flag=True,
    help="Also score two fixed self-blended sets, V7.3's recipe and V8.0's, made from the test split's reals.",
)
def main(
    checkpoint: str, params_path: str, methods: tuple[str, ...], output: str | None, sbi_test: bool
) -> None:
    """Score phase A on the test split's real videos against each method's fakes.

    Metrics per method and overall with 95 % intervals, in every quality on disk; the decision threshold comes from
    validation alone. The plain command writes the pipeline's outputs under metrics/ and the gate of phase B; with
    any other --checkpoint, --params, --methods or with --sbi-test those are left alone.
    """
    import functools
    import os

    from rich.progress import track as progress

    from stf.data.ffpp import require_fingerprint
    from stf.evaluation.console import make_console, print_report
    from stf.evaluation.document import tracked_metrics
    from stf.evaluation.outputs import choose_outputs
    from stf.evaluation.predict import ClipScorer
    from stf.evaluation.report import write_gate, write_report
    from stf.evaluation.results import evaluate
    from stf.evaluation.videos import parse_methods
    from stf.models.weights import load_model
    from stf.tracking.baseline import baseline_auc
    from stf.tracking.run import track

    is_default = {
        "--checkpoint": os.path.realpath(checkpoint) == os.path.realpath(CHECKPOINT),
        "--params": os.path.realpath(params_path) == os.path.realpath(PARAMS),
        "--methods": not methods,
        "--sbi-test": not sbi_test,
    }
    outputs = choose_outputs(
        PHASE, output, changed=tuple(name for name, same in is_default.items() if not same)
    )
    wanted = parse_methods(methods)
    params = load_params(params_path)
    device = set_up_runtime(params.runtime)
    fingerprint = require_fingerprint(params.data.root, DATA_JSON)
    model, config, epoch = load_model(checkpoint)
    scorer = ClipScorer(model.to(device), config, device, params.runtime.num_workers)
    console = make_console()
    watch = functools.partial(progress, console=console, transient=True, disable=not console.is_terminal)
    with track("eval_a", params=params, config=config, fingerprint=fingerprint, device=device) as run:
        run.tie_weights(checkpoint)
        methods = wanted or params.evaluation.methods
        evaluation = evaluate(scorer, epoch, params, methods, sbi_test=sbi_test, watch=watch)
        written = write_report(evaluation, outputs, PHASE, checkpoint)
        print_report(console, evaluation, baseline_auc(fingerprint))
        run.log(tracked_metrics(evaluation))
        for path in written:
            run.artifact(path, "evaluation")
        console.print(
            f"• Written: {outputs.document}, {outputs.scores}, {outputs.roc_plot.parent}/", markup=False
        )
        write_gate(evaluation, outputs)


if __name__ == "__main__":
    main()
