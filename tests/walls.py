"""What the package's files import, read from their source, and the walls between them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ENTRIES = ("streamlit_app", "pages")
Imports = Mapping[str, frozenset[str]]
"""By module, the modules it imports, `TYPE_CHECKING` included."""


def read_imports(root: Path) -> Imports:
    """Return what the modules of `specdec` and the pages import."""
    files = [*(root / "specdec").rglob("*.py"), *(root / "pages").glob("*.py")]
    files += [root / "streamlit_app.py"]
    trees = {_name_of(root, file): ast.parse(file.read_text(encoding="utf-8")) for file in files}
    return {name: frozenset(_imports(tree, trees)) for name, tree in trees.items()}


def _name_of(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield whole if whole in known else node.module


def is_in(module: str, *places: str) -> bool:
    """Say whether a module is one of `places`, or inside one."""
    return any(module == place or module.startswith(f"{place}.") for place in places)


@dataclass(frozen=True)
class Wall:
    """Modules in `inside` import nothing of `forbidden`; modules in `excepted` may."""

    name: str
    inside: tuple[str, ...]
    forbidden: tuple[str, ...]
    excepted: tuple[str, ...] = ()

    def crossings(self, imports: Imports) -> list[str]:
        return sorted(
            f"{module} imports {imported}"
            for module, all_imported in imports.items()
            for imported in all_imported
            if is_in(module, *self.inside)
            and not is_in(module, *self.excepted)
            and is_in(imported, *self.forbidden)
        )


_UPPER = ("specdec.live", "specdec.lab", "specdec.view", "specdec.ui", "specdec.cli")
_CORE = tuple(
    f"specdec.{name}"
    for name in (
        *(
            "errors",
            "records",
            "sampling",
            "acceptance",
            "metrics",
            "settings",
            "observe",
            "offers",
        ),
        *("block", "engine", "baseline", "codec", "policies", "pair"),
        *("models", "drafters", "targets"),
    )
)

WALLS = (
    Wall(
        "only the pages know streamlit",
        ("specdec",),
        ("streamlit", "streamlit_agraph"),
        excepted=("specdec.ui",),
    ),
    Wall(
        "pictures know neither the screen nor a run in progress",
        ("specdec.view",),
        ("specdec.ui", "specdec.live", "specdec.cli"),
    ),
    Wall(
        "nothing below the pictures draws, but what is saved may",
        ("specdec",),
        ("specdec.view",),
        excepted=("specdec.view", "specdec.ui", "specdec.cli", "specdec.saved"),
    ),
    Wall(
        "the core concludes, keeps and shows nothing",
        _CORE,
        ("specdec.runs", "specdec.saved", "specdec.perform", *_UPPER),
    ),
    Wall(
        "what concludes neither keeps nor shows",
        ("specdec.runs",),
        ("specdec.saved", "specdec.perform", *_UPPER),
    ),
    Wall(
        "what keeps does not show",
        ("specdec.saved",),
        ("specdec.live", "specdec.lab", "specdec.ui", "specdec.cli"),
    ),
    Wall(
        "a sweep shows nothing",
        ("specdec.lab",),
        ("specdec.live", "specdec.view", "specdec.ui", "specdec.cli"),
    ),
    Wall(
        "a run is made without a screen",
        ("specdec.perform", "specdec.live"),
        ("specdec.lab", "specdec.view", "specdec.ui", "specdec.cli"),
    ),
    Wall(
        "loop, rule and sampling know no weights and no server",
        ("specdec.engine", "specdec.acceptance", "specdec.sampling", "specdec.baseline"),
        ("specdec.models", "specdec.targets.server", "specdec.targets.local"),
    ),
    Wall(
        "models know neither drafts' strategies nor targets",
        ("specdec.models",),
        ("specdec.drafters", "specdec.targets", "specdec.engine", "specdec.pair"),
    ),
    Wall("the package knows no page and no test", ("specdec",), (*ENTRIES, "tests", "benchmarks")),
    Wall(
        "only the settings read .env",
        ("specdec", *ENTRIES),
        ("dotenv",),
        excepted=("specdec.settings",),
    ),
)


def circle(imports: Imports) -> list[str]:
    """Return modules that import each other in a circle, in order; none where there is no circle.

    A package's `__init__` that only gathers names for users is no part of one.
    """
    state: dict[str, str] = {}
    path: list[str] = []

    def visit(module: str) -> list[str]:
        state[module] = "open"
        path.append(module)
        for imported in sorted(imports[module]):
            if imported not in imports or imported == "specdec":
                continue
            if state.get(imported) == "open":
                return [*path[path.index(imported) :], imported]
            if imported not in state and (found := visit(imported)):
                return found
        path.pop()
        state[module] = "done"
        return []

    for module in sorted(imports):
        if module not in state and (found := visit(module)):
            return found
    return []
