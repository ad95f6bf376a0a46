"""The `tetrace` command: finds the subcommand, and makes every exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from tetrace import __version__
from tetrace.cli.commands import Commands
from tetrace.errors import TetraceError

# Name of each command and the module that defines it; imported when it is called or listed.
COMMANDS = {
    "record": "tetrace.cli.record",
    "report": "tetrace.cli.report",
    "export": "tetrace.cli.export",
    "diff": "tetrace.cli.diff",
    "check": "tetrace.cli.check",
    "fp8": "tetrace.cli.fp8",
    "study": "tetrace.cli.study",
    "doctor": "tetrace.cli.doctor",
}
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_DEFECT = 70


@click.command(
    cls=Commands,
    modules=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
)
@click.version_option(__version__, prog_name="tetrace", message="%(prog)s %(version)s")
@click.pass_context
def tetrace(context: click.Context) -> None:
    """Where a Transformer Engine training step spends its time: forward, backward, quantization, launches."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    2 is wrong input or wrong options, 70 a defect of tetrace (set TETRACE_DEBUG=1 to see where), 130 an interrupt.
    """
    sys.exit(_run(arguments))


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = tetrace.main(args=arguments, prog_name="tetrace", standalone_mode=False)
        sys.stdout.flush()
    except TetraceError as error:
        return _said(f"tetrace: {error}", error.exit_code)
    except click.ClickException as error:
        command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "tetrace"
        return _said(f"tetrace: {error.format_message()} Try '{command} --help'.", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        return _said("tetrace: interrupted", _INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has gone: what is left in the buffer must not be flushed into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            return _said(f"tetrace: the output cannot be written ({error.strerror}); write to another place", 2)
        if os.environ.get("TETRACE_DEBUG"):
            raise
        what = " ".join(str(error).split())[:300]
        return _said(f"tetrace: defect: {type(error).__name__}: {what}; TETRACE_DEBUG=1 shows where", _DEFECT)
    return result if isinstance(result, int) else 0


def _said(line: str, exit_code: int) -> int:
    click.echo(" ".join(line.splitlines()), err=True)
    return exit_code
