"""`bots`: players made of software, against whatever runs."""

from __future__ import annotations

import os
import sys

import click

from zmqgame.cli.context import EXIT_CODES, Context
from zmqgame.cli.names import kept_name


@click.command(
    epilog=f"""\b
Examples:
  zmqgame-cli bots --players 200
  zmqgame-cli --hub tcp://10.0.0.5:7600 bots --players 50 --prefix load-

{EXIT_CODES}"""
)
@click.option("--players", type=click.IntRange(1, 10_000), default=64, show_default=True)
@click.option("--prefix", default="bot-", show_default=True, help="Names are PREFIX and a number.")
@click.pass_obj
def bots(context: Context, players: int, prefix: str) -> None:
    """Players that log in, queue, race and answer, until Ctrl-C."""
    words = [f"--set={path}={value}" for path, value in context.flags.items()]
    if context.file is not None:
        words.append(f"--config={context.file}")
    # A name of their own: the hub keeps one node a name, and other bots may be there already.
    words.append(f"--name={kept_name('bots')}")
    words += [f"--set=bots.count={players}", f"--set=bots.prefix={prefix}"]
    # In the place of this process, so that Ctrl-C and exit codes are the service's own.
    os.execv(sys.executable, [sys.executable, "-m", "zmqgame.play.bots", *words])
