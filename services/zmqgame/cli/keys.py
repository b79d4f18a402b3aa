"""`keys`: make, show, allow, revoke and rotate key files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from zmqgame_bus import keys as files
from zmqgame_bus import rotation
from zmqgame_bus.errors import KeyFileError

from zmqgame.cli.context import EXIT_CODES, json_option, print_json, print_records

EPILOG = f"""\b
Examples:
  zmqgame-cli keys new hub --dir /etc/zmqgame                     hub.key and hub.pub
  zmqgame-cli keys new game-1 --allow 'game-*' --roles game       and a line in allowed.keys
  zmqgame-cli keys new token.secret --kind secret                 signs players' tokens
  zmqgame-cli keys new netcode.key --kind secret                  seals connect tokens for UDP
  zmqgame-cli keys list --dir /etc/zmqgame                        never shows a secret
  zmqgame-cli keys allow game-1 'game-*' --roles game             who may connect with game-1.pub, and as whom
  zmqgame-cli keys rotate hub; zmqgame-cli keys rotate hub --finish
  zmqgame-cli keys revoke game-1                                  closes its links too

{EXIT_CODES}"""


def _folder_option(*, exists: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    kind = click.Path(exists=exists, file_okay=False, path_type=Path)
    return click.option("--dir", "folder", type=kind, default=Path("."), show_default="here")


@click.group(epilog=EPILOG)
def keys() -> None:
    """Make, show, allow, revoke and rotate keys. A secret is never printed, and a key never overwritten.

    Hub and stats read their keys and allowed.keys again when they change, or at SIGHUP.
    """


@keys.command(epilog=EPILOG, short_help="Make a key pair, or with --kind secret a file of random bytes.")
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


@keys.command("list", epilog=EPILOG)
@_folder_option(exists=True)
@json_option
def show(folder: Path, as_json: bool) -> None:
    """The public keys in a folder, and who is allowed."""
    found = []
    for path in sorted(folder.glob("*.key")) + sorted(folder.glob("*.pub")):
        try:
            if path.suffix == ".key":
                publics = [pair.public for pair in files.read_pairs(path)]
            else:
                publics = files.read_publics(path)
            ages = ["new, rotating", "old, rotating"] if len(publics) == 2 else [""]
            for public, age in zip(publics, ages, strict=True):
                found.append({"file": path.name, "public": files.encode(public), "problem": age})
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


# The older name of the command.
keys.add_command(show, "show")

NameOrKey = click.argument("name", metavar="NAME|PUBLIC-KEY")


def _publics(folder: Path, name: str) -> list[bytes]:
    """The keys of NAME.pub, or the one that is written out."""
    if (folder / f"{name}.pub").exists():
        return files.read_publics(folder / f"{name}.pub")
    try:
        return [files.decode(name)]
    except ValueError as error:
        raise KeyFileError(
            f"{name} is no key, and there is no {folder / name}.pub",
            hint=f"zmqgame-cli keys list --dir {folder} shows what there is",
        ) from error


@keys.command("allow", epilog=EPILOG)
@NameOrKey
@click.argument("pattern")
@_folder_option(exists=True)
@click.option("--roles", metavar="ROLE,ROLE", default="*", show_default=True, help="What such a node may be.")
def allow_key(name: str, pattern: str, folder: Path, roles: str) -> None:
    """Let nodes whose name fits PATTERN (* and ?) connect with a key."""
    for public in _publics(folder, name):
        entry = files.Allowed(public, pattern, tuple(role for role in roles.split(",") if role))
        files.allow(folder / "allowed.keys", entry)
        print(f"allowed in {folder / 'allowed.keys'}: {entry.line()}")


@keys.command("revoke", epilog=EPILOG, short_help="Take a key out of allowed.keys; its links are closed.")
@NameOrKey
@_folder_option(exists=True)
def revoke_key(name: str, folder: Path) -> None:
    """Take every line of a key out of allowed.keys: its links are closed, new ones refused."""
    gone = [
        entry for public in _publics(folder, name) for entry in files.revoke(folder / "allowed.keys", public)
    ]
    if not gone:
        raise KeyFileError(f"{name} is not in {folder / 'allowed.keys'}")
    for entry in gone:
        print(f"revoked in {folder / 'allowed.keys'}: {entry.line()}")
    print(
        "a hub that reads this file closes its links within a second; one with a copy, when it is restarted"
    )


@keys.command("rotate", epilog=EPILOG, short_help="Give NAME a new pair in two steps.")
@click.argument("name")
@_folder_option(exists=True)
@click.option("--finish", is_flag=True, help="The second step: the old key is refused from now on.")
def rotate(name: str, folder: Path, finish: bool) -> None:
    """Give NAME a new pair in two steps; in between the old one and the new one are both valid."""
    if finish:
        done = rotation.finish(folder, name)
        print(f"{name}: the old key {files.encode(done.old)} is refused from now on")
        _print_lines("taken out of", folder, done.lines)
        print(f"next: give {name}.pub (one key now) and allowed.keys to the machines that have copies")
        return
    done = rotation.begin(folder, name)
    print(f"{name}: new key {files.encode(done.new)}; the old one stays valid")
    _print_lines("added to", folder, done.lines)
    print("next, in this order; nothing has to stop, and no step is urgent:")
    steps = [
        f"copy {name}.key, {name}.pub and allowed.keys to the machines that have copies",
        "wait a second: hub and stats take what has changed (systemd hands out copies: restart them)",
        f"restart {name} if it is neither hub nor stats: it starts with the new key",
        f"zmqgame-cli keys rotate {name} --finish --dir {folder}",
    ]
    for number, step in enumerate(steps, start=1):
        print(f"  {number}. {step}")


def _print_lines(what: str, folder: Path, lines: tuple[files.Allowed, ...]) -> None:
    for entry in lines:
        print(f"{what} {folder / 'allowed.keys'}: {entry.line()}")
