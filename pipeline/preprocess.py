"""Raw videos → the FF++ layout: consecutive frames, one face followed through them, 81 landmarks, boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.cli import command
from stf.config import METHODS, QUALITIES

if TYPE_CHECKING:
    from rich.console import Console

    from stf.preprocess.make import Made, Settings
    from stf.preprocess.sources import Found
    from stf.preprocess.store import Job


LOCK_S = 30.0  # a killed run's processes leave within a frame


@command
@click.argument("videos", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--root", required=True, type=click.Path(file_okay=False, path_type=Path), help="Gets FaceForensics++/."
)
@click.option(
    "--table", type=click.Path(dir_okay=False, path_type=Path), help="CSV: file, id, method, quality, split."
)
@click.option(
    "--quality", type=click.Choice(QUALITIES), help="Of files outside FF++'s own layout (else raw)."
)
@click.option(
    "--method", type=click.Choice(METHODS), help="The fakes' method outside it; without it they are real."
)
@click.option(
    "--max-frames", default=300, show_default=True, type=click.IntRange(min=0), help="Per video; 0: all."
)
@click.option(
    "--start", default=0, show_default=True, type=click.IntRange(min=0), help="The first frame to take."
)
@click.option(
    "--num-frames",
    default=32,
    show_default=True,
    type=click.IntRange(min=1),
    help="data.num_frames: shorter videos are told.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Videos at a time; default: the cores here.")
@click.option("--predictor", type=click.Path(dir_okay=False), help="An own dlib model of 81 (or 68) points.")
@click.option(
    "--detect-size",
    default=640,
    show_default=True,
    type=click.IntRange(min=0),
    help="Longer side of the picture searched for faces; 0: full size.",
)
@click.option(
    "--splits", is_flag=True, help="Write train, val and test.json: from the table, else 72/14/14 drawn."
)
@click.option(
    "--report",
    default=None,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Default: ROOT/preprocess.json.",
)
@click.option(
    "--time-limit", default=3600.0, show_default=True, type=click.FloatRange(min=1), help="Seconds per video."
)
def main(videos: tuple[Path, ...], root: Path, **options: Any) -> None:
    """Bring raw VIDEOS (files or folders) into the layout that training reads.

    FF++'s own download is recognised by its folders; other files are real videos named ID.mp4, or with --method fakes
    named TARGET_SOURCE.mp4. Videos that are complete are kept: the same command goes on where it was stopped. A broken
    video is reported and never stops the others; the exit code is then 1. Needs the optional extra `preprocess`.
    """
    from stf.console.preprocess import summary, videos_table
    from stf.console.tables import make_console
    from stf.errors import DataError, UsageError
    from stf.io.outputs import require_own_json, write_json
    from stf.io.values import printable
    from stf.preprocess.report import damaged, remarks, report_json
    from stf.preprocess.sources import Defaults, find_jobs

    if options["report"] is not None:
        require_own_json("--report", options["report"], "refused")
    console = make_console()
    found = find_jobs(videos, options["table"], Defaults(options["quality"], options["method"]))
    if not found.jobs and not found.refused:
        raise UsageError("no video was found; give video files, folders of them, or a --table")
    settings = _settings(options)
    made = _make_all(root, settings, found.jobs, options, console)
    console.print(videos_table(made))
    report = options["report"] or root / "preprocess.json"
    everything = _with_earlier(root, made)
    write_json(report, report_json(everything, found.refused))
    for line in found.refused:
        console.print(f"not taken: {printable(line)}", style="red", markup=False, soft_wrap=True)
    console.print(f"{summary(made, len(found.refused))}\nwritten to {report}", markup=False, soft_wrap=True)
    _splits(root, found, everything, options["num_frames"] if options["splits"] else None, console)
    wrong = [video for video in made if video.outcome == "failed"] + damaged(made)
    if found.refused or wrong:
        first = found.refused[0] if not wrong else f"{wrong[0].name}: {remarks(wrong[0])}"
        n_wrong, n_all = len(found.refused) + len(wrong), len(made) + len(found.refused)
        raise DataError(f"{n_wrong} of {n_all} videos were not made or not to their end, first {first}")


def _with_earlier(root: Path, made: Sequence[Made]) -> list[Made]:
    """This command's videos, and what earlier ones made in the same tree."""
    from stf.preprocess.make import Made
    from stf.preprocess.store import complete_entries

    earlier = (Made.read(entry | {"outcome": "kept"}) for entry in complete_entries(root))
    return list(({video.name: video for video in earlier} | {video.name: video for video in made}).values())


def _settings(options: dict[str, Any]) -> Settings:
    """With the detector loaded, so that a missing extra is said at once and the processes share the model."""
    from functools import partial

    from stf.preprocess.dlib_detector import dlib_detector
    from stf.preprocess.make import Settings

    detector = partial(dlib_detector, options["predictor"], options["detect_size"])
    detector()
    return Settings(detector, options["start"], options["max_frames"], options["num_frames"])


def _make_all(
    root: Path, settings: Settings, jobs: Sequence[Job], options: dict[str, Any], console: Console
) -> list[Made]:
    """The entries of all videos, made several at a time; one process at a time may work on a tree."""
    from filelock import FileLock, Timeout

    from stf.console.progress import progress_bar
    from stf.errors import UsageError
    from stf.io.cores import usable_cores
    from stf.preprocess.make import make_each
    from stf.preprocess.store import prepare_state

    made: list[Made] = []
    n_workers, limit_s = options["workers"] or usable_cores(), options["time_limit"]
    try:
        with (
            listening() as leave_if_asked,
            FileLock(prepare_state(root) / "lock", timeout=LOCK_S),
            progress_bar(console, "videos") as advance,
            closing(make_each(root, settings, jobs, n_workers, limit_s, leave_if_asked)) as entries,
        ):
            for entry in entries:
                made.append(entry)
                advance(len(made), len(jobs))
    except Timeout:
        raise UsageError(f"another preprocess is at work on {root}; wait for it, or stop it") from None
    return made


@contextmanager
def listening() -> Iterator[Callable[[], None]]:
    """A function that raises Interrupted once Ctrl-C or SIGTERM came; the next run makes the videos at work anew."""
    import signal

    from stf.errors import Interrupted

    asked: list[int] = []

    def leave_if_asked() -> None:
        if asked:
            by = signal.Signals(asked[0]).name
            what = f"stopped by {by}; the same command goes on after the videos that are complete"
            raise Interrupted(what, 128 + asked[0])

    signals = (signal.SIGINT, signal.SIGTERM)
    before = {signum: signal.signal(signum, lambda number, _: asked.append(number)) for signum in signals}
    try:
        yield leave_if_asked
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _splits(root: Path, found: Found, made: Sequence[Made], num_frames: int | None, console: Console) -> None:
    """Writes the split files of what holds a clip of `num_frames`; with None says which files are missing."""
    from stf.data.ffpp import SPLITS
    from stf.preprocess.write_splits import drawn_splits, missing_splits, write_splits

    missing = missing_splits(root)
    if num_frames is None:
        if missing:
            lacks = f"{root}/FaceForensics++ lacks {', '.join(f'{split}.json' for split in missing)}"
            hint = "they come with FF++'s download; for own videos give --splits"
            console.print(f"{lacks}: {hint}", markup=False, soft_wrap=True)
        return
    if len(missing) < len(SPLITS):
        console.print("the split files are left as they are; delete them to have them written anew")
        return
    fit = [
        video.name.split("/")
        for video in made
        if video.outcome != "failed" and video.longest_run >= num_frames
    ]
    reals = sorted({video_id for group, _, video_id in fit if group == "real"})
    fakes = sorted({video_id for group, _, video_id in fit if group != "real"})
    people = {person for fake in fakes for person in fake.split("_")}
    given = {i: split for i, split in found.splits.items() if i in people.union(reals)}
    split_of = given or drawn_splits(reals, fakes)
    write_splits(root, split_of, fakes)
    how = "from the table" if given else "drawn: a person in several videos may now be in several splits"
    told = f"{len(split_of)} identities with a clip of {num_frames} frames are in train, val and test.json"
    console.print(f"{told}, {how}", soft_wrap=True)


if __name__ == "__main__":
    main()
