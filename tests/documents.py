"""What stands in the project's documents: named files, code blocks, sessions."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOP = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "bus/BUS.md",
    "deploy/MAILBOX.md",
    "bus/PROTOCOL.md",
    "services/CLIENT.md",
    "tests/README.md",
    "tests/bench/README.md",
)


def blocks(text, language):
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def examples():
    """Each Python block of the README that names its file in its first line."""
    found = {}
    for block in blocks((ROOT / "README.md").read_text(), "python"):
        first, _, rest = block.partition("\n")
        found[first.removeprefix("# ")] = rest
    return found


def sessions():
    """Commands of the README's consoles, each with what it prints."""
    found = []
    for block in blocks((ROOT / "README.md").read_text(), "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def paths(text):
    """What looks like a path of the repository: in `code`, in a link, or in an indented map of a folder."""
    named = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    named += [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    found = set()
    for name in named:
        if re.fullmatch(r"[\w.@*-]+(/[\w.@*-]+)*/?", name) and (
            "/" in name or name.endswith((".md", ".rs", ".py", ".toml", ".sql"))
        ):
            found.add(name)
    return found
