"""`zmqgame-cli`: run the backend, talk to it, look at it.

One file a group of commands; each is imported when it is used, so that `zmqgame-cli send` does not pay for
the libraries of `zmqgame-cli demo`. Exit codes, for all commands: EXIT_CODES in ``context.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import click
from zmqgame_bus.errors import ZmqgameError

from zmqgame.cli.context import EXIT_CODES, Context, exit_code

__all__ = ["cli", "main"]

_COMMANDS = {
    "demo": ("demo", "The whole backend with bots, kills included, in one minute."),
    "up": ("up", "Run every service until Ctrl-C; restart what dies."),
    "send": ("send", "Send a message to a player, a group, everybody or a service."),
    "status": ("status", "What the hub knows: nodes, players, queues."),
    "players": ("status", "Who is known, who is online, and where."),
    "tail": ("tail", "Presence and events, as they happen."),
    "top": ("top", "Nodes, rates, queues, slow consumers, refreshed each second."),
    "check": ("check", "Is everything well? For people, programs and Nagios."),
    "trace": ("trace", "Where a message is: each hop with its time."),
    "audit": ("audit", "Prove that nothing was lost or came twice."),
    "bench": ("bench", "Measure the hub that runs."),
    "sql": ("sql", "Ask ClickHouse."),
    "mailbox": ("mailbox", "What waits for players; move it to another store."),
    "keys": ("keys", "Make and show key files."),
    "config": ("configure", "Check, show and explain the configuration."),
    "bots": ("bots", "Players made of software."),
    "completion": ("completion", "Completion for your shell."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"zmqgame.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from zmqgame_bus.schema import suggestion

        if args and not args[0].startswith("-") and args[0] not in _COMMANDS:
            ctx.fail(f"no such command {args[0]!r}{suggestion(args[0], _COMMANDS)}")
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Lazy,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.option(
    "--config", "file", type=click.Path(path_type=Path), envvar="ZMQGAME_CONFIG", help="Configuration file."
)
@click.option("--hub", metavar="ENDPOINT", help="The hub to connect to (short for --set bus.hub=ENDPOINT).")
@click.option("--set", "settings", metavar="TABLE.KEY=VALUE", multiple=True, help="Set a key; repeatable.")
@click.version_option(version("zmqgame"), prog_name="zmqgame-cli")
@click.pass_context
def cli(ctx: click.Context, file: Path | None, hub: str | None, settings: tuple[str, ...]) -> None:
    """zmqgame: a multiplayer game backend.

    \b
    Start here:
      zmqgame-cli demo                          see everything work, in one minute
      zmqgame-cli up                            run it all, until Ctrl-C
      zmqgame-cli send --player alice 'hello'   a message that is not lost
      zmqgame-cli sql 'select * from finishes'  what happened
    """
    ctx.obj = Context(file, hub, settings)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; every error we know becomes one line and an exit code."""
    try:
        code = cli.main(args=list(argv) if argv is not None else None, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Abort:
        return 130
    except click.exceptions.Exit as end:
        return int(end.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except ZmqgameError as error:
        print(error.report(), file=sys.stderr)
        return exit_code(error)
    except BrokenPipeError:
        return 0  # the reader of our output went away, as `| head` does
    except KeyboardInterrupt:
        return 130
