"""Rules of the repository. Each rule has its own test; an escape needs a reason on the line: `tidy:
REASON`.
"""

import ast
import re
import socket
import subprocess
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (
    "*.rs",
    "*.py",
    "*.pyi",
    "*.md",
    "*.toml",
    "*.sql",
    "*.service",
    "*.conf",
    "*.in",
    "*.txt",
    "Makefile",
)

FILE_LINES = 700
"""Longer is a question, twice so a split. Files that are longer now may shrink, not grow."""
FUNCTION_LINES = 70
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}

BANNED_IN_CORE = {
    r"\bstd::time\b": "take the time as an argument (milliseconds)",
    r"\bstd::thread\b": "core has one thread: its caller's",
    r"\bnet::(\{[^}]*)?(Tcp|Udp|ToSocket)": "bytes come in and go out as arguments",
    r"\bstd::fs\b": "emit a store request; the driver answers it",
    r"\bstd::env\b": "take configuration as an argument",
    r"\brand::|\bgetrandom\b|\bthread_rng\b": "take randomness as an argument",
    r"\bHashMap::new\(\)|\bHashSet::new\(\)|\bRandomState\b": "use BTreeMap, or a fixed hasher",
    r"\bunsafe\b": "core has no unsafe code",
    r"\bprintln!|\beprintln!|\bdbg!": "core writes nowhere",
    r"\bSystemTime\b|\bInstant::now\b": "take the time as an argument (milliseconds)",
}


def files(*patterns):
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def name(path):
    return str(path.relative_to(ROOT))


def of_tests(path):
    """Test modules in files of their own: scenarios are long tables of what happens."""
    return "tests" in name(path)


def without_tests(text):
    """The source of a Rust file before its test module."""
    return text.split("#[cfg(test)]")[0]


def code_of(line):
    """A Rust line without its comment."""
    return line.split("//")[0]


def too_long(lengths, limit, known):
    return {
        what: length
        for what, length in lengths.items()
        if length > max(limit, known.get(what, 0)) and length > limit
    }


def test_no_file_grows_past_the_limit():
    sources = [path for path in files("*.rs", "*.py") if not of_tests(path)]
    lengths = {name(path): without_tests(path.read_text()).count("\n") for path in sources}
    assert not too_long(lengths, FILE_LINES, LONG_FILES), "split it: one noun, one file"


def test_no_function_grows_past_one_screen():
    lengths = {}
    for path in files("bus/*.py", "services/*.py"):
        lengths |= {
            f"{name(path)}:{function}": length for function, length in python_functions(path.read_text())
        }
    for path in (each for each in files("rust/*.rs") if not of_tests(each)):
        source = without_tests(path.read_text())
        lengths |= {f"{name(path)}:{function}": length for function, length in rust_functions(source)}
    assert not too_long(lengths, FUNCTION_LINES, LONG_FUNCTIONS), (
        "keep branches in the parent, work in helpers"
    )


def python_functions(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = first.end_lineno if documented else node.lineno
            yield node.name, node.end_lineno - start + 1


def rust_functions(text):
    """Functions by indentation:
    from `fn name` to the closing brace in its column (rustfmt keeps it there).
    """
    lines = text.splitlines()
    for index, line in enumerate(lines):
        found = re.match(r"(\s*)(?:pub(?:\([a-z]+\))? )?(?:const |async |unsafe )*fn (\w+)", line)
        if found and not line.rstrip().endswith((";", "}")):
            end = next((at for at in range(index + 1, len(lines)) if lines[at] == found[1] + "}"), index)
            yield found[2], end - index + 1


@pytest.mark.parametrize("pattern", BANNED_IN_CORE)
def test_core_is_pure(pattern):
    found = []
    for path in files("rust/core/src/*.rs"):
        lines = without_tests(path.read_text()).splitlines()
        for number, line in enumerate(lines, 1):
            if (
                re.search(pattern, code_of(line))
                and "tidy: " not in line
                and "forbid(unsafe_code)" not in line
            ):
                found.append(f"{name(path)}:{number}: {line.strip()}")
    assert not found, BANNED_IN_CORE[pattern]


def test_the_ban_sees_what_it_must():
    for text in (
        "use std::time::Instant;",
        "let x = rand::random();",
        "std::thread::spawn(f)",
        "unsafe { x }",
    ):
        assert any(re.search(pattern, code_of(text)) for pattern in BANNED_IN_CORE)
    assert not any(re.search(pattern, code_of("let a = 1; // std::time")) for pattern in BANNED_IN_CORE)


def test_python_calls_that_hide_errors_or_block():
    banned = {
        r"\bexcept:\s*$": "name the exception",
        r"\bos\.system\(": "use subprocess with a list",
        r"shell=True": "use a list of words",
        r"\bpickle\b": "network bytes may not become objects",
        r"\beval\(|\bexec\(": "network bytes may not become code",
        r"\byaml\b": "the configuration is TOML",
    }
    found = []
    for path in files("bus/*.py", "services/*.py"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            for pattern, instead in banned.items():
                if re.search(pattern, line) and "tidy: " not in line:
                    found.append(f"{name(path)}:{number}: {line.strip()} ({instead})")
    assert not found


def test_every_limit_has_a_reason():
    """In limits.rs a doc comment, in limits.py a docstring below or a comment on the line."""
    missing = []
    for path in files("*limits.rs"):
        lines = path.read_text().splitlines()
        for index, line in enumerate(lines):
            if re.match(r"\s*pub const ", line) and not lines[index - 1].strip().startswith(("///", "#[")):
                missing.append(f"{name(path)}:{index + 1}")
    for path in files("*limits.py"):
        missing += [f"{name(path)}:{number}" for number in python_limits_without_reason(path.read_text())]
    assert not missing, "say why this limit and no other"


def python_limits_without_reason(text):
    lines, nodes = text.splitlines(), ast.parse(text).body
    for index, node in enumerate(nodes):
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if not getattr(target, "id", "").isupper():
            continue
        after = nodes[index + 1] if index + 1 < len(nodes) else None
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        commented = any("#" in line for line in lines[max(0, node.lineno - 2) : node.end_lineno])
        if not documented and not commented:
            yield node.lineno


def test_no_unfinished_marks():
    marks = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|\b(todo|unimplemented)!\(")
    found = [
        f"{name(path)}:{number}"
        for path in files("*.rs", "*.py", "*.pyi", "*.sql", "*.md", "Makefile")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if marks.search(line)
    ]
    assert not found


def test_nothing_of_this_machine_is_written_down():
    """No home folders, no host names, no package index but the standard ones' absence:
    requirements name no hosts.
    """
    private = re.compile(r"/((home|Users)/\w+|root/|work/|tmp/[a-z]+-build)")
    host = socket.gethostname()
    found = []
    for path in files(*SOURCES):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if (private.search(line) or (len(host) > 5 and host in line)) and "tidy: " not in line:
                found.append(f"{name(path)}:{number}: {line.strip()[:80]}")
    for path in files("requirements/*"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"--(extra-)?index-url|--find-links|--trusted-host|https?://", line):
                found.append(f"{name(path)}:{number}: {line.strip()[:80]}")
    assert not found


def test_requirements_are_pinned_with_hashes():
    for path in files("requirements/*.txt"):
        entries = re.findall(
            r"^([a-z0-9._-]+)==\S+ \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
            path.read_text(),
            re.M,
        )
        names = re.findall(r"^([a-z0-9._-]+)\s*[=<>~@;]", path.read_text(), re.M)
        assert entries
        assert len(entries) == len(names), f"{name(path)}: an entry without version or hash"


def test_python_sources_are_utf8_without_tabs():
    for path in files("*.py"):
        with tokenize.open(path) as stream:
            assert "\t" not in stream.read().replace('"\\t"', ""), name(path)
