"""Tasks, reward terms, fusion rules and estimator networks from other packages, by name.

A name is ours, or an entry point of an installed package, or an import path such as
``my_package.tasks:push_mug``. A package declares its entry points in ``pyproject.toml``:

    [project.entry-points."p2r_jax.tasks"]
    push_mug = "my_package.tasks:push_mug"

Nothing is imported before its name is asked for, so a package that is broken breaks only
what it brings.
"""

import difflib
import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")


class PluginError(ImportError):
    """What another package brings cannot be used; names package and entry point."""


@dataclass(frozen=True)
class Origin:
    """Where something that is not ours comes from.

    Attributes:
      path: import path, ``module:attribute``.
      package: name and version of the package that declares it; empty for a path as given.
      group: group of the entry point; empty for a path as given.
      name: of the entry point.
    """

    path: str
    package: str = ""
    group: str = ""
    name: str = ""

    def __str__(self) -> str:
        if not self.package:
            return f"import path {self.path!r}"
        return f"package {self.package} (entry point {self.name} = {self.path} in {self.group})"

    @property
    def short_name(self) -> str:
        """Last part of the path: what a task found under it has to be called."""
        return self.name or self.path.rpartition(":")[2].rpartition(".")[2]

    def load(self) -> Any:
        """Import it; whatever goes wrong there is a PluginError that says where.

        A path that no package declares may lie in the working directory, too.
        """
        if not self.package and os.getcwd() not in sys.path and "" not in sys.path:
            sys.path.append(os.getcwd())
        module, _, attribute = self.path.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except Exception as error:
            raise self.failure(f"{type(error).__name__}: {error}") from error

    def failure(self, what: str) -> PluginError:
        """The error that names this origin and the way out."""
        mend = "mend or uninstall it; all else works without" if self.package else "is it right?"
        return PluginError(f"{self} cannot be used ({mend}): {what}")


def is_import_path(name: str) -> bool:
    """Whether a name has the form ``package.module:attribute``.

    >>> is_import_path("my_package.tasks:push_mug"), is_import_path("runs/mug")
    (True, False)
    """
    return IMPORT_PATH.fullmatch(name) is not None


def declared(group: str) -> dict[str, tuple[Origin, ...]]:
    """Entry points of a group by name, of all installed packages; nothing is imported."""
    found: dict[str, tuple[Origin, ...]] = {}
    for origin in sorted(_entry_points(tuple(sys.path)), key=str):
        if origin.group == group:
            found[origin.name] = (*found.get(origin.name, ()), origin)
    return dict(sorted(found.items()))


@functools.lru_cache(maxsize=4)
def _entry_points(path: tuple[str, ...]) -> tuple[Origin, ...]:
    """Our entry points of everything on ``sys.path``, which is ``path``."""
    from importlib.metadata import entry_points

    installed = entry_points()
    return tuple(
        Origin(point.value, f"{package.name} {package.version}", group, point.name)
        for group in installed.groups
        if group.startswith("p2r_jax.")
        for point in installed.select(group=group)
        if (package := point.dist) is not None
    )


class Registry(Mapping[str, Item], Generic[Item]):
    """Things by name: ours, entry points of one group, import paths.

    Iterating gives the names, ours first, and imports nothing. A name that two packages
    claim, or that is ours as well, is refused when it is asked for.
    """

    def __init__(
        self,
        kinds: tuple[str, str],
        group: str,
        own: Mapping[str, Item],
        adapt: Callable[[Any, Origin], Item],
    ):
        """A registry.

        Args:
          kinds: what is registered, for messages: ``("no task", "tasks")``.
          group: of the entry points.
          own: ours by name; a live view, so later additions count.
          adapt: makes an item of what was imported, or raises ``origin.failure``.
        """
        self.kinds, self.group, self.own, self._adapt = kinds, group, own, adapt

    def __iter__(self) -> Iterator[str]:
        yield from self.own
        yield from (name for name in declared(self.group) if name not in self.own)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (is_import_path(name) or name in list(self))

    def __getitem__(self, name: str) -> Item:
        """Find an item.

        Raises:
          KeyError: for an unknown name; lists what exists.
          PluginError: if the name is claimed twice, or what it names cannot be used.
        """
        origin = self.origin(name)
        if origin is None:
            return self.own[name]
        return self._adapt(origin.load(), origin)

    def origin(self, name: str) -> Origin | None:
        """Where a name comes from, None for ours; raises as ``registry[name]`` does."""
        if is_import_path(name):
            return Origin(name)
        claims = declared(self.group).get(name, ())
        if len(claims) + (name in self.own) > 1:
            who = [*(["p2r_jax itself"] if name in self.own else []), *map(str, claims)]
            raise PluginError(
                f"{self.kinds[1]}: the name {name!r} is taken twice, by {' and by '.join(who)}; "
                "rename one, or uninstall its package"
            )
        if claims:
            return claims[0]
        if name not in self.own:
            raise KeyError(f"{self.kinds[0]} {name!r}{self._hint(name)}")
        return None

    def _hint(self, name: str) -> str:
        near = difflib.get_close_matches(name, self, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{hint} ({self.kinds[1]}: {', '.join(self)})"
