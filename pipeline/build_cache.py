"""Builds the cache of face crops for training in advance, for instance on a cheaper machine without a GPU."""

from __future__ import annotations

import dataclasses

import click

from pipeline.cli import command, load_params, params_option
from stf.io.paths import DATA_JSON

USUAL_FOLDER = "cache/faces"  # what --estimate assumes where runtime.face_cache is empty


@command
@params_option
@click.option("--estimate", is_flag=True, help="Print the size and the estimated time; write nothing.")
def main(params_path: str, estimate: bool) -> None:
    """Build the cache of face crops (runtime.face_cache) for the verified data.

    Training builds missing files itself; this command does it in advance. An interrupted build resumes. The files
    contain the exact pixels of the training videos' crops. They belong to one state of the data, one quality and one
    clip length; other data uses another folder, so old folders can be deleted.
    """
    import cv2

    from stf.console.face_cache import cost_text
    from stf.console.tables import make_console
    from stf.data.ffpp import require_fingerprint
    from stf.errors import ConfigError
    from stf.training.face_cache import face_cache, fill, measure, training_videos

    params, console = load_params(params_path), make_console()
    if estimate and not params.runtime.face_cache:
        params = dataclasses.replace(
            params, runtime=dataclasses.replace(params.runtime, face_cache=USUAL_FOLDER)
        )
    if not params.runtime.face_cache:
        raise ConfigError("runtime.face_cache is empty, so there is no cache to build; set it to a folder")
    cv2.setNumThreads(0)  # the work is distributed over processes
    fingerprint = require_fingerprint(params.data.root, DATA_JSON)
    cache, videos = face_cache(params, fingerprint), training_videos(params)
    if estimate:
        planned = measure(cache, cache.missing(videos), params.runtime.num_workers, console)
        console.print(
            f"to be built in {cache.folder}: {cost_text(planned, params.runtime.num_workers)}",
            soft_wrap=True,
        )
        return
    with cache.locked():
        fill(cache, videos, params.runtime.num_workers, console)
    console.print(
        f"[bold green]the crops of {len(videos):,} training videos are in {cache.folder}[/]", soft_wrap=True
    )


if __name__ == "__main__":
    main()
