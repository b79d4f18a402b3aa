"""zmqgame_native.pyi says exactly what the module has: names, members, signatures, docs; both directions."""

import ast
import importlib.metadata
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import zmqgame_native

STUB = Path(__file__).parents[2] / "rust" / "python" / "zmqgame_native.pyi"
TREE = ast.parse(STUB.read_text())
# What every class has, or what Python derives by itself from other members.
INHERITED = set(dir(object)) | {"__module__", "__weakref__", "__dict__", "__class_getitem__"}
# Slots that Python pairs: defining one of these makes it add the others.
PAIRED = {
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__ne__",
    "__eq__",
    "__hash__",
    "__setitem__",
    "__delitem__",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def stub_classes() -> dict[str, ast.ClassDef]:
    # A name with an underscore describes a type to the checker and need not exist at run time.
    found = (node for node in TREE.body if isinstance(node, ast.ClassDef))
    return {node.name: node for node in found if not node.name.startswith("_")}


def stub_functions(body: list[ast.stmt]) -> dict[str, Function]:
    return {node.name: node for node in body if isinstance(node, Function)}


def stub_fields(body: list[ast.stmt]) -> set[str]:
    found = (node.target for node in body if isinstance(node, ast.AnnAssign))
    return {target.id for target in found if isinstance(target, ast.Name)}


def decorators(node: Function) -> set[str]:
    return {ast.unparse(decorator) for decorator in node.decorator_list}


def stub_signature(node: Function) -> list[tuple[str, str, str]]:
    """Each parameter as (name, kind, default), self and cls left out."""
    spec, rows = node.args, []
    positional = [*spec.posonlyargs, *spec.args]
    defaults = [None] * (len(positional) - len(spec.defaults)) + list(spec.defaults)
    for argument, default in zip(positional, defaults, strict=True):
        text = ast.unparse(default) if default else ""
        rows.append((argument.arg, "positional", text))
    if spec.vararg:
        rows.append((spec.vararg.arg, "*", ""))
    for argument, given in zip(spec.kwonlyargs, spec.kw_defaults, strict=True):
        rows.append((argument.arg, "keyword", ast.unparse(given) if given else ""))
    if spec.kwarg:
        rows.append((spec.kwarg.arg, "**", ""))
    if rows and rows[0][0] in ("self", "cls"):
        rows = rows[1:]
    return [(name, kind, normal(text)) for name, kind, text in rows]


def native_signature(thing: object) -> list[tuple[str, str, str]]:
    kinds = {
        inspect.Parameter.POSITIONAL_ONLY: "positional",
        inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional",
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.KEYWORD_ONLY: "keyword",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    rows = []
    for parameter in inspect.signature(thing).parameters.values():  # type: ignore[arg-type]
        empty = parameter.default is inspect.Parameter.empty
        rows.append((parameter.name, kinds[parameter.kind], "" if empty else repr(parameter.default)))
    if rows and rows[0][0] in ("self", "$self"):
        rows = rows[1:]
    return [(name, kind, normal(text)) for name, kind, text in rows]


def normal(default: str) -> str:
    """A default's value, so that 65_536 and 65536 are the same; what PyO3 can't show is `...`."""
    try:
        return repr(ast.literal_eval(default)) if default else ""
    except ValueError:
        return "..."


def same(stub: list[tuple[str, str, str]], native: list[tuple[str, str, str]]) -> bool:
    """Equal, where PyO3 shows the default; where it can't (`...`) any stated default will do."""
    if [row[:2] for row in stub] != [row[:2] for row in native]:
        return False
    ellipsis = repr(...)
    return all(
        a == b or (bool(a) and b in ("...", ellipsis)) for (*_, a), (*_, b) in zip(stub, native, strict=True)
    )


def public(module: ModuleType) -> set[str]:
    names = {name for name in vars(module) if not name.startswith("_")} | {"__version__"}
    # maturin's package wraps the module in one of the same name.
    return names - {"zmqgame_native"}


def native_members(cls: type) -> set[str]:
    own: set[str] = set()
    for base in cls.__mro__:
        if base is cls or base.__module__ == "zmqgame_native":
            own |= set(vars(base))
    return {name for name in own if name not in INHERITED | PAIRED and not name.startswith("_abc")}


def stub_members(node: ast.ClassDef) -> set[str]:
    names = set(stub_functions(node.body)) | stub_fields(node.body)
    return names - INHERITED - PAIRED


def test_the_names_are_the_same() -> None:
    stub = set(stub_classes()) | set(stub_functions(TREE.body)) | stub_fields(TREE.body)
    assert stub == public(zmqgame_native)


def test_the_version_is_the_distributions() -> None:
    assert zmqgame_native.__version__ == importlib.metadata.version("zmqgame-native")


@pytest.mark.parametrize("name", sorted(stub_functions(TREE.body)))
def test_functions_have_the_stubs_signatures_and_docs(name: str) -> None:
    node = stub_functions(TREE.body)[name]
    native = getattr(zmqgame_native, name)
    assert same(stub_signature(node), native_signature(native)), inspect.signature(native)
    assert inspect.getdoc(native) == ast.get_docstring(node), f"{name}: the docs differ"


@pytest.mark.parametrize("name", sorted(stub_classes()))
def test_classes_have_the_stubs_members(name: str) -> None:
    node, native = stub_classes()[name], getattr(zmqgame_native, name)
    assert isinstance(native, type)
    assert stub_members(node) == native_members(native)
    assert ast.get_docstring(node), f"{name} has no doc"


def methods() -> list[tuple[str, str]]:
    return [(name, method) for name, node in stub_classes().items() for method in stub_functions(node.body)]


@pytest.mark.parametrize(("class_name", "name"), methods(), ids=str)
def test_methods_are_what_the_stub_says(class_name: str, name: str) -> None:
    node = stub_functions(stub_classes()[class_name].body)[name]
    native_class = getattr(zmqgame_native, class_name)
    if "property" in decorators(node):
        assert inspect.isgetsetdescriptor(inspect.getattr_static(native_class, name))
        return
    if name == "__new__":
        assert same(stub_signature(node), native_signature(native_class)), inspect.signature(native_class)
        return
    if name.startswith("__"):
        assert callable(getattr(native_class, name))
        return
    is_static = isinstance(inspect.getattr_static(native_class, name), staticmethod)
    assert is_static == ("staticmethod" in decorators(node))
    native = getattr(native_class, name)
    assert same(stub_signature(node), native_signature(native)), inspect.signature(native)


# Whose docs are read where Python users look: `help`.
DOCUMENTED = ("Edge", "FrameDecoder", "PacketBatch", "RingBuffer", "WriteBatch")


def stub_doc(node: Function | ast.ClassDef) -> str:
    return ast.get_docstring(node) or ""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_classes_of_the_edge_have_the_stubs_docs(name: str) -> None:
    """A class's doc and that of its arguments are one: Python shows none of `__new__`."""
    node = stub_classes()[name]
    new = stub_functions(node.body).get("__new__")
    docs = [doc for doc in (stub_doc(node), stub_doc(new) if new else "") if doc]
    assert inspect.getdoc(getattr(zmqgame_native, name)) == "\n\n".join(docs)


@pytest.mark.parametrize(
    ("class_name", "name"),
    [found for found in methods() if found[0] in DOCUMENTED and not found[1].startswith("__")],
    ids=str,
)
def test_methods_of_the_edge_have_the_stubs_docs(class_name: str, name: str) -> None:
    doc = stub_doc(stub_functions(stub_classes()[class_name].body)[name])
    assert doc
    assert inspect.getdoc(getattr(getattr(zmqgame_native, class_name), name)) == doc


def test_the_comparison_can_fail() -> None:
    """A default, a kind or a name that differs is seen."""
    node = stub_functions(stub_classes()["Edge"].body)["stop"]
    stub = stub_signature(node)
    assert stub == [("drain_ms", "positional", "1000")]
    native = native_signature(zmqgame_native.Edge.stop)
    assert same(stub, native)
    assert not same([("drain_ms", "positional", "2000")], native)
    assert not same([("drain_ms", "keyword", "1000")], native)
    assert not same([("wait_ms", "positional", "1000")], native)
    assert not same([], native)
