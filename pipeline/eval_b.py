"""Phase B on real deepfakes: figures per method and plots."""

from __future__ import annotations

from pipeline.cli import command, load_params, params_option
from stf.evaluation.options import evaluation_options


@command
@params_option
@evaluation_options("b")
def main(
    checkpoint: str,
    params_path: str,
    methods: tuple[str, ...],
    output: str | None,
    sbi_test: bool,
    verbose: bool,
) -> None:
    """Score phase B on the test split's real videos against each method's fakes.

    Metrics per method and overall with 95 % intervals, in every quality on disk; the decision threshold comes from
    validation alone. The plain command writes the pipeline's outputs under metrics/; with any other --checkpoint,
    --params, --methods or with --sbi-test those are left alone.
    """
    from stf.evaluation.run import Request, run_evaluation
    from stf.io.processes import open_processes

    request = Request("b", checkpoint, params_path, methods, output, sbi_test, verbose)
    with open_processes() as world:
        run_evaluation(request, load_params(params_path), world)


if __name__ == "__main__":
    main()
