"""What the installed vLLM takes for the values of its options: types, choices and bounds, read from its source.

Its own parser would say the same after half a minute of imports. Of what is not written as vLLM 0.32 writes it, and
where no vLLM is installed, nothing is known here: then the load of the model says what is wrong.
"""

import ast
import importlib.util
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

BUILTINS = ("bool", "int", "float", "str", "dict", "list", "set", "tuple")
# Where the options are fields of classes.
_DECLARED = {
    "vllm.engine.arg_utils": ("EngineArgs",),
    "vllm.entrypoints.launchers.cli_args": ("BaseFrontendArgs", "FrontendArgs"),
}
BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


@dataclass
class Form:
    """types: names of Python's; "?" stands for one that is not known. choices: all that it may be, besides the types.
    bounds: numbers by the names that pydantic gives them."""

    types: set[str] = field(default_factory=set)
    choices: list[str | int] = field(default_factory=list)
    bounds: dict[str, float] = field(default_factory=dict)


def root() -> Path | None:
    """Where vLLM's package is. It is not imported."""
    spec = importlib.util.find_spec("vllm")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]) if places else None


@cache
def forms(package: Path | None) -> dict[str, Form]:
    """Of every option by its long name with dashes; nothing where there is no package, or an unknown one."""
    found: dict[str, Form] = {}
    for module, classes in _DECLARED.items() if package else ():
        source = _Source.of(package, module)
        for name in classes:
            for statement in getattr(source.defined.get(name), "body", ()):
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    found[statement.target.id.replace("_", "-")] = _form(source, statement)
    return found


class _Source:
    """One module of vLLM's: what it defines, and where it has other names from."""

    def __init__(self, package: Path, module: str) -> None:
        self.package = package
        self.defined: dict[str, ast.AST] = {}
        self.imported: dict[str, tuple[str, str]] = {}
        place = package.joinpath(*module.split(".")[1:])
        file = next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()), None)
        for node in ast.parse(file.read_text()).body if file else ():
            match node:
                case ast.ImportFrom(module=str() as origin, level=0, names=names) if origin.startswith("vllm"):
                    self.imported |= {alias.asname or alias.name: (origin, alias.name) for alias in names}
                case ast.ClassDef(name=name):
                    self.defined[name] = node
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    self.defined[name] = value
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.AST() as value):
                    self.defined[name] = value

    @staticmethod
    @cache
    def of(package: Path, module: str) -> "_Source":
        return _Source(package, module)

    def find(self, name: str) -> tuple["_Source", ast.AST] | None:
        if name in self.defined:
            return self, self.defined[name]
        if name in self.imported:
            module, there = self.imported[name]
            return _Source.of(self.package, module).find(there)
        return None


def _form(source: _Source, field: ast.AnnAssign) -> Form:
    form = Form()
    match field.annotation:
        case ast.Constant(value=str() as quoted):
            _collect(form, source, ast.parse(quoted, mode="eval").body)
        case annotation:
            _collect(form, source, annotation)
    if isinstance(field.value, ast.Attribute) and isinstance(field.value.value, ast.Name):  # CacheConfig.block_size
        found = source.find(field.value.value.id)
        for statement in getattr(found[1], "body", ()) if found else ():
            match statement:
                case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(keywords=keywords)) if (
                    name == field.value.attr
                ):
                    given = {one.arg: one.value for one in keywords if one.arg in BOUNDS}
                    form.bounds = {str(name): ast.literal_eval(bound) for name, bound in given.items()}
    return form


def _collect(form: Form, source: _Source, node: ast.AST) -> None:
    """Add to a form what a type is made of."""
    match node:
        case ast.Constant(value=None):
            pass
        case ast.Constant(value=str() | int() as choice):
            form.choices.append(choice)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            _collect(form, source, left)
            _collect(form, source, right)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            for one in inner.elts if isinstance(inner, ast.Tuple) else [inner]:
                _collect(form, source, one)
        case ast.Subscript(value=outer):
            _collect(form, source, outer)
        case ast.Name(id=name) if name in BUILTINS:
            form.types.add(name)
        case ast.Name(id=name) if found := source.find(name):
            _collect(form, *found)
        case ast.ClassDef(bases=[ast.Name(id="Enum" | "IntEnum" as kind)], body=body):
            for statement in body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                        form.choices.append(value if kind == "IntEnum" and isinstance(value, int) else name)
        case _:
            form.types.add("?")
