"""What a number depends on beyond its settings: code outside the package, data files, the package.

Nothing is imported to find out: imports are read from the source. Code that is imported by a name
known only at run time, and files that code opens by itself, are not seen.
"""

import ast
import functools
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from runners.contents import digest_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("attentions", "tasks", "runners")
NO_PATHS = ("generated", "hub")
"""What `task.data.source` can be beside a path."""


@dataclass(frozen=True)
class Dependence:
    """What of a configuration can name code or data.

    Attributes:
        texts: Settings that are text, by their dotted names; a file may yet come to be there.
        outputs: Folders that runs write to, which are no data even where they lie among them.
    """

    texts: Mapping[str, str]
    outputs: tuple[str, ...]


def dependence(settings: Mapping[str, Any]) -> Dependence:
    """What the whole resolved configuration can depend on."""
    texts = dict(_leaves({key: value for key, value in settings.items() if key != "run"}))
    named = ("task.", "attention.")
    kept = {p: v for p, v in texts.items() if p.startswith(named) or p.endswith("_target_")}
    outputs = settings["run"]["results"], texts.get("task.data.cache_dir")
    return Dependence(kept, tuple(folder for folder in outputs if folder))


def sources(on: Dependence, cache: Path) -> dict[str, str]:
    """A hash of each thing that the numbers of a run depend on, by its name.

    Modules outside the package go by their dotted names, data files by the setting that names them,
    and the package itself as `attnbench`.

    Args:
        on: See `dependence`.
        cache: A folder for the hashes of data files; losing it costs time alone.
    """
    targets = [value for path, value in on.texts.items() if path.endswith("_target_")]
    outputs = tuple(Path(folder).resolve() for folder in on.outputs)
    data = {path: digest_of(Path(value), cache, outputs) for path, value in _files(on.texts)}
    known = {path: digest for path, digest in data.items() if digest is not None}
    return {**modules(targets), **known, "attnbench": package_digest()}


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text among the settings, with its dotted name."""
    if isinstance(node, str):
        yield path, node
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            yield from _leaves(value, f"{path}.{number}")


def _files(texts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The settings that name a file; a folder only where a path is expected, or spelt out."""
    for path, value in texts.items():
        if value in NO_PATHS or path.endswith(("cache_dir", "_target_")):
            continue
        is_source = path.startswith("task.data.source") or "/" in value
        if os.path.isfile(value) or (is_source and os.path.isdir(value)):
            yield path, value


@dataclass(frozen=True)
class Module:
    """The source of a module: a hash of it, and the dotted names that it imports."""

    digest: str
    imports: tuple[str, ...]


_seen: dict[str, Module] = {}
"""What each module was when it was looked at. A module that has been imported stays what it was,
whatever becomes of its file, so that is what a later run of the same process depends on."""


def modules(targets: list[str]) -> dict[str, str]:
    """The modules of these classes outside the package, with the local ones that they import.

    What is installed counts as far as it belongs to the package of a target; the versions of
    other libraries stand in the record's environment.
    """
    own = {target.partition(".")[0] for target in targets}
    found: dict[str, str] = {}
    left = [target for target in targets if target.partition(".")[0] not in PACKAGES]
    # A class of torch would lead through all of it.
    looked_at = {*PACKAGES, *sys.stdlib_module_names, "torch", ""}
    aside = set(looked_at)
    while left:
        parts = left.pop().split(".")
        # Importing a.b.c runs a and a.b first. The last may be no module but what one defines.
        for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
            if parts[0] in aside:
                break
            if name in looked_at:
                continue
            looked_at.add(name)
            path = _located(name)
            if not isinstance(path, Path):
                continue
            if parts[0] not in own and _is_installed(path, name):
                aside.add(parts[0])
                break
            module = _module(name, path)
            found[name] = module.digest
            left += module.imports
    return found


def _module(name: str, path: Path) -> Module:
    if name in sys.modules and name in _seen:
        return _seen[name]
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    if name not in _seen or _seen[name].digest != digest:
        imports = tuple(_imports(content, name, path.name == "__init__.py"))
        _seen[name] = Module(digest, imports if path.suffix == ".py" else ())
    return _seen[name]


def _imports(content: bytes, name: str, is_package: bool) -> Iterator[str]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):  # the run will tell
        return
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if base)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            first = node.args[0]
            if called in ("import_module", "__import__") and isinstance(first, ast.Constant):
                yield _absolute(str(first.value), package)


def _absolute(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # beyond the top: the import will fail
        return ""


def _located(name: str) -> Path | list[Path] | None:
    """The file of a module, or the folders of a package without one."""
    parent, _, last = name.rpartition(".")
    if parent:
        above = _located(parent)
        if above is None or (isinstance(above, Path) and above.name != "__init__.py"):
            return None
        folders = [above.parent] if isinstance(above, Path) else above
    else:
        folders = [Path(entry) for entry in sys.path]
    bare = []
    for folder in folders:
        endings = ("/__init__.py", *EXTENSION_SUFFIXES, ".py")
        for path in (folder / f"{last}{ending}" for ending in endings):
            if path.is_file():
                return path
        if (folder / last).is_dir():
            bare.append(folder / last)
    return bare or (None if parent else _hooked(last))


def _hooked(name: str) -> Path | list[Path] | None:
    """A module that is on no path, as those of an editable install can be."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or (spec.origin is None and spec.submodule_search_locations is None):
        return None
    if spec.has_location and spec.origin is not None:
        return Path(spec.origin)
    return [Path(folder) for folder in spec.submodule_search_locations or []] or None


def _is_installed(path: Path, name: str) -> bool:
    depth = name.count(".") + (path.name == "__init__.py")
    folder = path.parents[depth]
    named = {"site-packages", "dist-packages"} & set(folder.parts)
    return bool(named) or path.relative_to(folder).parts[0] in _installed(folder)


@functools.cache
def _installed(folder: Path) -> frozenset[str]:
    """What `pip install --target` put there."""
    records = folder.glob("*.dist-info/RECORD")
    lines = (line for record in records for line in record.read_text().splitlines())
    return frozenset(line.partition(",")[0].partition("/")[0] for line in lines)


@functools.cache
def package_digest() -> str:
    """A hash of the code of attnbench that numbers come from; the report is no part of it."""
    digest = hashlib.sha256()
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    # Settings that a mechanism or a command reads by name, and that no configuration holds.
    files += (ROOT / "conf" / "attention").glob("*.yaml")
    for path in sorted(files):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("runners/report/"):
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]
