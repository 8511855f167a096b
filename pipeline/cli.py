"""What all commands share: errors as one line, and the parameter file."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable
from typing import Any

import click

from stf.config import Params
from stf.errors import Interrupted, StfError
from stf.io.values import printable

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it phones home on import otherwise
# Read when torch is imported. Threads that spin between two kernels starve the loader's workers: with 2 threads and
# 2 workers on 2 busy cores an epoch of the sample took over 150 s, with sleeping threads 18 s.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# numpy's BLAS would spin a thread on every core around the small products of Video-SBI's warps, in every worker: 195
# against 136 ms CPU a pair on 2 cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

_FULL = (errno.ENOSPC, errno.EDQUOT)

params_option = click.option(
    "--params",
    "params_path",
    default="params.yaml",
    show_default=True,
    type=click.Path(dir_okay=False),
    help="The parameter file; profiles/ holds ready ones.",
)


def command(function: Callable[..., Any]) -> click.Command:
    """A Click command that prints an StfError as one line and exits with its code; --debug shows the traceback."""

    @functools.wraps(function)
    def guarded(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Interrupted as left:  # on request: nothing failed
            click.secho(str(left), fg="yellow", err=True)
            raise SystemExit(left.exit_code) from None
        except StfError as error:
            if debug:
                raise
            print_error(str(error))
            raise SystemExit(error.exit_code) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click prints them; a pipe closed by `| head` ends the command silently
        except Exception as error:  # the last resort: a traceback only with --debug
            if debug:
                raise
            print_error(unexpected(error))
            raise SystemExit(1) from error

    option = click.option("--debug", is_flag=True, help="Show the full traceback of an error.")
    return click.command(context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})(
        option(guarded)
    )


def print_error(text: str) -> None:
    """`text` in red on stderr; control characters, which a file's name may hold, as escapes."""
    click.secho(f"error: {printable(text)}", fg="red", err=True)


def unexpected(error: Exception) -> str:
    """The message of an error that no part of the project handles."""
    if isinstance(error, OSError) and (error.errno in _FULL or error.filename is not None):
        where = f"{error.filename}: " if error.filename is not None else ""
        hint = "free some space" if error.errno in _FULL else "fix the file or its permissions"
        return f"{where}{error.strerror}; {hint} and run the command again"
    what = " ".join(str(error).split())[:200]
    return f"unexpected {type(error).__name__}: {what}; run again with --debug to see where it comes from"


def load_params(path: str) -> Params:
    """The validated parameter file; raises ConfigError (exit code 2)."""
    return Params.load(path)
