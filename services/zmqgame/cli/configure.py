"""`config`: check, show and explain the configuration."""

from __future__ import annotations

from pathlib import Path

import click
from zmqgame_bus.config import Setting, example, load, reference
from zmqgame_bus.mailbox import shown_url

from zmqgame.cli.context import EXIT_CODES, Context, json_option, print_json, print_table

EPILOG = f"""\b
Examples:
  zmqgame-cli config check game.toml
  zmqgame-cli --set hub.heartbeat_ms=500 config show       each value and where it came from
  zmqgame-cli config docs | less
  zmqgame-cli config docs --toml > zmqgame.toml            a file to start from

{EXIT_CODES}"""


@click.group(epilog=EPILOG)
def config() -> None:
    """Check, show and explain the configuration: one TOML file, environment over it, flags over both."""


@config.command(epilog=EPILOG)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.pass_obj
def check(context: Context, file: Path | None) -> None:
    """Check FILE (or --config): every problem with its line, or `ok`."""
    path = file or context.file
    made = load(path, flags=context.flags)
    changed = sum(1 for setting in made.settings.values() if setting.source != "default")
    print(f"{path or 'no file'}: ok, {changed} of {len(made.settings)} keys set")


@config.command(epilog=EPILOG)
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
@json_option
@click.pass_obj
def show(context: Context, changed: bool, as_json: bool) -> None:
    """Each key with its value and where it came from."""
    settings = [
        setting for setting in context.config.settings.values() if not changed or setting.source != "default"
    ]
    if as_json:
        print_json({each.key.path: {"value": _shown(each), "source": each.source} for each in settings})
    else:
        rows = ((each.key.path, _shown(each), each.key.unit, each.source) for each in settings)
        print_table(rows, ["key", "value", "unit", "source"])


def _shown(setting: Setting) -> object:
    """The value; of the mailbox's URL what is no secret."""
    return shown_url(str(setting.value)) if setting.key.unit == "mailbox" else setting.value


@config.command(epilog=EPILOG, short_help="The reference of every table and key.")
@click.option("--toml", is_flag=True, help="A file with every key at its default, commented out.")
def docs(toml: bool) -> None:
    """The reference: every table and key with type, unit, default, limit and a sentence."""
    click.echo(example() if toml else reference(), nl=False)
