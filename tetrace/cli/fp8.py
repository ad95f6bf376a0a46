"""`tetrace fp8`: what a recording with `--fp8` says of scales, amaxes and what the format threw away."""

from __future__ import annotations

import click

from tetrace.cli.commands import Commands

# Name of each subcommand and the module that defines it under that name.
COMMANDS = {
    "health": "tetrace.cli.fp8_health",
    "nan": "tetrace.cli.fp8_nan",
    "tensor": "tetrace.cli.fp8_tensor",
    "whatif": "tetrace.cli.fp8_whatif",
    "compare": "tetrace.cli.fp8_compare",
    "checkpoint": "tetrace.cli.fp8_checkpoint",
    "shapes": "tetrace.cli.fp8_shapes",
    "coverage": "tetrace.cli.fp8_coverage",
}


@click.command(cls=Commands, modules=COMMANDS, invoke_without_command=True, subcommand_metavar="COMMAND [ARGS]...")
@click.pass_context
def fp8(context: click.Context) -> None:
    """Look into FP8: which tensor went bad first, what saturates or underflows, what another recipe would have done.

    Recordings are made with `tetrace record --fp8`; no GPU is needed to look into them.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
