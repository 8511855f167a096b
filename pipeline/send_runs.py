"""Sends MLflow what runs had to say while it did not answer."""

from __future__ import annotations

import click

from pipeline.cli import command


@command
@click.option(
    "--here", is_flag=True, help="Also what is for another store, such as a server that is gone for good."
)
def main(here: bool) -> None:
    """Send what is kept in mlruns/unsent/ to the MLflow store.

    A run goes on when its MLflow store fails (a server that is away, a locked or damaged database, a full disk), and
    what it has to say is kept on disk, in order. Runs send it themselves as soon as the store answers; this command
    sends what was left when they ended or were killed. Nothing is sent twice. What cannot be sent stays, with exit
    code 1 and the reason. MLFLOW_TRACKING_URI names the store, as in every command; what is for another one stays.
    """
    from rich.console import Console

    from stf.console.progress import progress_bar
    from stf.errors import TrackingError
    from stf.tracking.unsent import send_run, unsent_runs

    folders, console = unsent_runs(), Console(highlight=False)
    failed: list[str] = []
    with progress_bar(console, "sending runs") as advance:
        for number, folder in enumerate(folders, 1):
            try:
                told = send_run(folder, anywhere=here)
                console.print(
                    f"sent: {told}" if told else f"{folder} is in use by its run, which sends it itself"
                )
            except TrackingError as error:
                failed.append(str(error))
            advance(number, len(folders))
    if failed:
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise TrackingError(f"{len(failed)} of {len(folders)} runs are still unsent: {failed[0]}{others}")
    if not folders:
        console.print("nothing is unsent")


if __name__ == "__main__":
    main()
