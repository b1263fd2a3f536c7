"""The bundler: one readable module out of the service's own sources, with only what the scorer alone needs of them.

Names that two modules have get that of their module in front; imports between the modules, and decorators that compile,
go. A kernel that is called from outside is called through `wide`, and inner loops are those of `lifecycle.swift`.
"""

from __future__ import annotations

import ast
import builtins
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import otel_aiops

PACKAGE = "otel_aiops"
ROOT = Path(otel_aiops.__file__).parent
MAIN, SWIFT, COMPILED = f"{PACKAGE}.lifecycle.alone", f"{PACKAGE}.lifecycle.swift", f"{PACKAGE}.detect.compiled"
LIBM = ("log", "log10", "log1p", "exp", "expm1")  # which machine code takes from the C library
ALLOWED = ("numpy", "typing", "collections", "dataclasses")  # beside the standard library

Symbol = tuple[str, str]  # module, name
KERNELS = {
    (f"{PACKAGE}.detect.seen", "highest"): "seen_highest",
    (f"{PACKAGE}.detect.seen", "_fade"): "seen_fade",
    (f"{PACKAGE}.detect.seen", "_pack"): "seen_pack",
    (f"{PACKAGE}.detect.seen", "_merge"): "seen_merge",
    (f"{PACKAGE}.detect.pairs", "_nearest"): "pairs_nearest",
    (f"{PACKAGE}.detect.pairs", "_first_least"): "pairs_first_least",
    (f"{PACKAGE}.detect.pairs", "_at_place"): "pairs_at_place",
}
LICENCE = "# Made by `otel-aiops export` from the sources of otel-aiops {version}; it needs Python 3.11 and numpy.\n"


@dataclass(slots=True)
class _Module:
    """One source: what it defines at its top, and where its other names come from."""

    name: str
    source: str
    tree: ast.Module
    symbols: dict[str, list[ast.stmt]] = field(default_factory=dict)  # the statements that make a name
    ours: dict[str, Symbol] = field(default_factory=dict)  # name → symbol; of a module the name is ""
    others: dict[str, str] = field(default_factory=dict)  # name → import statement

    @classmethod
    def read(cls, name: str) -> _Module:
        source = _path(name).read_text("utf-8")
        found = cls(name, source, ast.parse(source))
        for node in found.tree.body:
            found._take(node)
        return found

    def _take(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ImportFrom | ast.Import):
            self._import(node)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            self.symbols.setdefault(node.name, []).append(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for one in ast.walk(target):
                    if isinstance(one, ast.Name):
                        self.symbols.setdefault(one.id, []).append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in node.body:
                self._take(inner)

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = alias.asname or alias.name
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
                inner = f"{node.module}.{alias.name}"
                self.ours[name] = (inner, "") if _path(inner).exists() else (str(node.module), alias.name)
            elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
                self.others[name] = f"from {node.module} import {alias.name}" + (
                    f" as {alias.asname}" if alias.asname else ""
                )
            elif isinstance(node, ast.Import):
                self.others[name.split(".")[0]] = f"import {alias.name}" + (
                    f" as {alias.asname}" if alias.asname else ""
                )


def bundle() -> str:
    """The source of the scorer alone; the same for the same sources."""
    return _Bundle().text()


class _Bundle:
    def __init__(self) -> None:
        self._modules: dict[str, _Module] = {}
        self._order: list[str] = []  # modules, each after those that it uses
        self._needed: set[Symbol] = set()
        self._through: set[Symbol] = set()  # what is written with its module in front may be called like a local name
        self._imports: set[str] = set()
        self._need((MAIN, "main"))
        for name in ("wide", *LIBM, *KERNELS.values()):
            self._need((SWIFT, name))
        self._visit(MAIN, set())
        self._order.insert(0, SWIFT)
        counts = Counter(name for _, name in self._needed)
        self._names = {
            (module, name): name if counts[name] == 1 and (module, name) not in self._through else _longer(module, name)
            for module, name in self._needed
        }

    def text(self) -> str:
        """All of it."""
        parts = [part for module in self._order for part in self._parts(self._modules[module])]
        doc = ast.get_docstring(self._modules[MAIN].tree, clean=False)
        future = "from __future__ import annotations\n"
        imports = "\n".join(sorted(self._imports, key=lambda one: (one.startswith("from"), one)))
        head = f'"""{doc}"""\n\n{LICENCE.format(version=otel_aiops.__version__)}\n{future}\n{imports}\n'
        return head + "\n\n" + "\n\n\n".join(parts) + '\n\n\nif __name__ == "__main__":\n    sys.exit(main())\n'

    # -- what is needed -----------------------------------------------------------------------------------------------

    def _module(self, name: str) -> _Module:
        if name not in self._modules:
            self._modules[name] = _Module.read(name)
        return self._modules[name]

    def _need(self, symbol: Symbol) -> None:
        """Keep a definition, and all that it refers to."""
        symbol = self._real(symbol)
        if symbol in self._needed or symbol in KERNELS:
            return
        module = self._module(symbol[0])
        if symbol[1] not in module.symbols:
            raise LookupError(f"{symbol[0]} has no {symbol[1]}")
        self._needed.add(symbol)
        for node in module.symbols[symbol[1]]:
            self._imports |= {module.others[name] for name in _loaded(node) if name in module.others}
            for other, through in _referred(module, node):
                if other[0] != COMPILED:
                    self._through |= {self._real(other)} if through else set()
                    self._need(other)
            for name in _made(node):
                self._needed.add((symbol[0], name))

    def _real(self, symbol: Symbol) -> Symbol:
        """Where a name is defined that a module has only imported."""
        module = self._module(symbol[0])
        while symbol[1] not in module.symbols and module.ours.get(symbol[1], ("", ""))[1]:
            symbol = module.ours[symbol[1]]
            module = self._module(symbol[0])
        return symbol

    def _visit(self, name: str, above: set[str]) -> None:
        if name in self._order or name in above or name not in {module for module, _ in self._needed}:
            return
        module = self._module(name)
        used = [of for of, _ in module.ours.values()]
        for other in sorted(set(used), key=used.index):
            if _path(other).exists() and other not in (COMPILED, SWIFT):
                self._visit(other, above | {name})
        self._order.append(name)

    # -- what is written ----------------------------------------------------------------------------------------------

    def _parts(self, module: _Module) -> Iterator[str]:
        lines = module.source.splitlines()
        ruler = f"# == {module.name.removeprefix(PACKAGE + '.')} " + "=" * 60
        yield f"{ruler}\n# {(ast.get_docstring(module.tree) or '').splitlines()[0]}"
        for node in module.tree.body:
            names = _made(node)
            if not names or not any((module.name, name) in self._needed for name in names):
                continue
            yield self._statement(module, node, lines)

    def _statement(self, module: _Module, node: ast.stmt, lines: list[str]) -> str:
        """A definition with its comments, its names replaced."""
        edits = list(_Edits(self, module).of(node))
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(one.lineno for one in decorators)]) - 1
        kept = lines[first : node.end_lineno]
        gone = {one.lineno - 1 - first for one in decorators if _name(one) == "compiled"}
        for line, begin, end, text in sorted(edits, reverse=True):
            raw = kept[line - 1 - first].encode()
            kept[line - 1 - first] = (raw[:begin] + text.encode() + raw[end:]).decode()
        while first and lines[first - 1].startswith("#"):
            first -= 1
            kept.insert(0, lines[first])
            gone = {one + 1 for one in gone}
        return "\n".join(line for k, line in enumerate(kept) if k not in gone)

    def name(self, symbol: Symbol) -> str | None:
        """What a symbol is called here; None for what is not kept."""
        symbol = self._real(symbol)
        if symbol in KERNELS:
            symbol = SWIFT, KERNELS[symbol]
        return self._names.get(symbol)

    def is_kernel(self, symbol: Symbol) -> bool:
        """Whether a symbol is a function that the service compiles."""
        module, name = self._real(symbol)
        return any(_is_compiled(node) for node in self._module(module).symbols.get(name, []))


class _Edits(ast.NodeVisitor):
    """Which parts of lines are to be replaced in a definition: (line, first byte, end, text)."""

    def __init__(self, of: _Bundle, module: _Module) -> None:
        self._of, self._module = of, module
        self._found: list[tuple[int, int, int, str]] = []
        self._bound: list[set[str]] = []
        self._kernel = False

    def of(self, node: ast.stmt) -> list[tuple[int, int, int, str]]:
        """Of one statement at the top of a module."""
        self._kernel = _is_compiled(node)
        for name in _made(node):
            self._defined(node, name)
        self.visit(node)
        return self._found

    def _defined(self, node: ast.stmt, name: str) -> None:
        new = self._of.name((self._module.name, name))
        if new is None or new == name:
            return
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            offset = len("def " if isinstance(node, ast.FunctionDef) else "class ")
            self._replace(node.lineno, node.col_offset + offset, name, new)
        else:
            for one in ast.walk(node):
                if isinstance(one, ast.Name) and one.id == name and isinstance(one.ctx, ast.Store):
                    self._replace(one.lineno, one.col_offset, name, new)

    def _replace(self, line: int, begin: int, old: str, new: str) -> None:
        if (edit := (line, begin, begin + len(old.encode()), new)) not in self._found:
            self._found.append(edit)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        bound = _bound(node)
        for one in (*node.decorator_list, *node.args.defaults, *[d for d in node.args.kw_defaults if d]):
            if _name(one) != "compiled":
                self.visit(one)
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg) and argument.annotation:
                self.visit(argument.annotation)
        if node.returns:
            self.visit(node.returns)
        self._bound.append(bound)
        for inner in node.body:
            self.visit(inner)
        self._bound.pop()

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._bound.append(_bound(node))
        self.generic_visit(node)
        self._bound.pop()

    def _comprehension(self, node: ast.AST) -> None:
        names = {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
        self._bound.append(names)
        self.generic_visit(node)
        self._bound.pop()

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension  # as ast calls them

    def _symbol(self, node: ast.AST) -> tuple[Symbol, str] | None:
        """(what a name or an attribute of a module means, how it is written)."""
        if isinstance(node, ast.Name) and not any(node.id in names for names in self._bound):
            if node.id in self._module.symbols:
                return (self._module.name, node.id), node.id
            found = self._module.ours.get(node.id)
            return (found, node.id) if found and found[1] else None
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            found = self._module.ours.get(name)
            if found and not found[1] and not any(name in names for names in self._bound):
                return (found[0], node.attr), f"{name}.{node.attr}"
        return None

    def visit_Name(self, node: ast.Name) -> None:
        self._reference(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._kernel and isinstance(node.value, ast.Name) and node.value.id == "np" and node.attr in LIBM:
            new = self._of.name((SWIFT, node.attr))
            self._replace(node.lineno, node.col_offset, f"np.{node.attr}", str(new))
        elif not self._reference(node):
            self.generic_visit(node)

    def _reference(self, node: ast.Name | ast.Attribute) -> bool:
        if not isinstance(node.ctx, ast.Load) or (found := self._symbol(node)) is None:
            return False
        symbol, written = found
        new = self._of.name(symbol)
        if new is not None and new != written:
            self._replace(node.lineno, node.col_offset, written, new)
        return True

    def visit_Call(self, node: ast.Call) -> None:
        found = self._symbol(node.func)
        if found and not self._kernel and self._of.is_kernel(found[0]) and (new := self._of.name(found[0])):
            self._replace(node.func.lineno, node.func.col_offset, found[1], f"wide({new})")
            for one in (*node.args, *node.keywords):
                self.visit(one)
            return
        self.generic_visit(node)


def _path(module: str) -> Path:
    return ROOT.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _longer(module: str, name: str) -> str:
    """A name with that of its module in front."""
    stem = module.rsplit(".", 1)[1]
    under = "_" if name.startswith("_") else ""
    bare = name.lstrip("_")
    return (
        f"{under}{stem.title()}{bare}"
        if bare[:1].isupper() and not bare.isupper()
        else (f"{under}{stem.upper()}_{bare}" if bare.isupper() else f"{under}{stem}_{bare}")
    )


def _name(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _is_compiled(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and any(_name(one) == "compiled" for one in node.decorator_list)


def _made(node: ast.stmt) -> list[str]:
    """The names that a statement at the top of a module makes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)]
    return []


def _loaded(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} - set(dir(builtins))


def _referred(module: _Module, node: ast.AST) -> Iterator[tuple[Symbol, bool]]:
    """(what a statement may refer to, whether through its module); too much does no harm."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            if one.id in module.symbols:
                yield (module.name, one.id), False
            elif (found := module.ours.get(one.id)) and found[1]:
                yield found, False
        elif isinstance(one, ast.Attribute) and isinstance(one.value, ast.Name):
            found = module.ours.get(one.value.id)
            if found and not found[1]:
                yield (found[0], one.attr), True


def _bound(node: ast.FunctionDef | ast.Lambda) -> set[str]:
    """The names that are local to a function."""
    names = {one.arg for one in ast.walk(node.args) if isinstance(one, ast.arg)}
    body = node.body if isinstance(node.body, list) else [node.body]
    for inner in body:
        for one in ast.walk(inner):
            if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store):
                names.add(one.id)
            elif isinstance(one, ast.FunctionDef):
                names.add(one.name)
    return names
