"""`keys`: make and show key files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from zmqgame_bus import keys as files
from zmqgame_bus.errors import KeyFileError

from zmqgame.cli.context import EXIT_CODES, json_option, print_json, print_records

EPILOG = f"""\b
Examples:
  zmqgame-cli keys new hub --dir /etc/zmqgame                     hub.key and hub.pub
  zmqgame-cli keys new game-1 --allow 'game-*' --roles game       and a line in allowed.keys
  zmqgame-cli keys new token.secret --kind secret                 signs players' tokens
  zmqgame-cli keys new netcode.key --kind secret                  seals connect tokens for UDP
  zmqgame-cli keys show --dir /etc/zmqgame                        never shows a secret

{EXIT_CODES}"""


def _folder_option(*, exists: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind = click.Path(exists=exists, file_okay=False, path_type=Path)
    return click.option("--dir", "folder", type=kind, default=Path("."), show_default="here")


@click.group(epilog=EPILOG)
def keys() -> None:
    """Make and show key files. A secret is never printed, and a file never overwritten."""


@keys.command(epilog=EPILOG)
@click.argument("name")
@_folder_option(exists=False)
@click.option("--kind", type=click.Choice(["curve", "secret"]), default="curve", show_default=True)
@click.option(
    "--allow",
    "pattern",
    metavar="PATTERN",
    help="Add a line for nodes of this name (* and ?) to allowed.keys.",
)
@click.option("--roles", metavar="ROLE,ROLE", default="*", show_default=True, help="What such a node may be.")
def new(name: str, folder: Path, kind: str, pattern: str | None, roles: str) -> None:
    """Make the key pair NAME.key and NAME.pub, or with --kind secret the file NAME of 32 random bytes."""
    if "/" in name or name in ("", ".", ".."):
        raise click.UsageError("NAME is a file name; --dir says where")
    if kind == "secret":
        if pattern:
            raise click.UsageError("--allow is for CURVE keys")
        files.new_secret(folder / name)
        print(f"made {folder / name}")
        return
    pair = files.new_pair(folder, name)
    print(f"made {folder / name}.key and {name}.pub   public {files.encode(pair.public)}")
    if pattern:
        entry = files.Allowed(pair.public, pattern, tuple(role for role in roles.split(",") if role))
        files.allow(folder / "allowed.keys", entry)
        print(f"allowed in {folder / 'allowed.keys'}: {pattern} as {roles}")


@keys.command(epilog=EPILOG)
@_folder_option(exists=True)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """The public keys in a folder, and who is allowed."""
    found = []
    for path in sorted(folder.glob("*.key")) + sorted(folder.glob("*.pub")):
        try:
            public = files.read_pair(path).public if path.suffix == ".key" else files.read_public(path)
            found.append({"file": path.name, "public": files.encode(public), "problem": ""})
        except KeyFileError as error:
            if path.name != "netcode.key":
                found.append({"file": path.name, "public": "", "problem": str(error)})
    allowed = files.read_allowed(folder / "allowed.keys") if (folder / "allowed.keys").exists() else []
    lines = [
        {"public": files.encode(each.public), "name": each.pattern, "roles": list(each.roles)}
        for each in allowed
    ]
    if as_json:
        print_json({"keys": found, "allowed": lines})
        return
    if not found and not lines:
        print(f"no keys in {folder.resolve()}; `zmqgame-cli keys new --help` says how to make some")
        return
    print_records(found)
    if lines:
        print()
        print_records(lines)
