"""No command shows a traceback without --debug, whatever error occurs."""

from __future__ import annotations

import errno
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import command
from stf.errors import DataError


def run(error: BaseException, *options: str) -> Result:
    @command
    def main() -> None:
        raise error

    return CliRunner().invoke(main, options)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ZeroDivisionError("division by zero"),
            "unexpected ZeroDivisionError: division by zero; run again with --debug",
        ),
        (RecursionError("a\nb" * 500), "unexpected RecursionError"),
        (MemoryError(), "unexpected MemoryError"),
        (PermissionError(errno.EACCES, "Permission denied", "data/x"), "data/x: Permission denied; fix"),
        (
            OSError(errno.ENOSPC, "No space left on device", "mlruns/a"),
            "mlruns/a: No space left on device; free",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "error: No space left on device; free some space"),
    ],
)
def test_an_unexpected_error_is_one_line_with_exit_code_1(error: Exception, message: str) -> None:
    result = run(error)
    assert result.exit_code == 1
    assert message in result.output
    assert len(result.output.splitlines()) == 1
    assert len(result.output) < 400
    assert result.exception is not None
    assert result.exception.__cause__ is error  # so that pytest shows the original traceback


def test_debug_shows_the_traceback() -> None:
    error = ZeroDivisionError("division by zero")
    assert run(error, "--debug").exception is error


def test_clicks_own_errors_keep_their_exit_code() -> None:
    result = run(click.UsageError("no such thing"))
    assert result.exit_code == 2
    assert "no such thing" in result.output
    assert run(click.exceptions.Exit(7)).exit_code == 7


def test_control_characters_of_a_file_name_do_not_reach_the_terminal() -> None:
    result = run(DataError("a\x1b[31m\rb.png is damaged"))
    assert result.output == "error: a\\x1b[31m\\rb.png is damaged\n"


def test_a_closed_pipe_ends_the_command_in_silence() -> None:
    code = (
        "import click\nfrom pipeline.cli import command\n"
        "@command\ndef main():\n    for _ in range(100_000):\n        click.echo('x' * 100)\nmain()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(20) == 1


def test_line_breaks_and_bidi_characters_of_a_file_name_are_escaped() -> None:
    result = run(DataError("no\nsuch\x1b[31m\u202e.pt"))
    assert result.output == "error: no\\nsuch\\x1b[31m\\u202e.pt\n"
