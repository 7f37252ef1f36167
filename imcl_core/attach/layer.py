"""A layer: what local losses read there, and what they train; and modules by name or pattern."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn

from imcl_core.errors import ImclError, nearest


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one layer's local losses read, and what they train.

    modules: names of the modules whose parameters they reach.
    source, call: they read what the module of this name returns when it is called for the (`call` + 1)th time.
    calls: how often it is called in all; 0 where that is not known.
    shape: (C, H, W) of one image's features laid out as maps.
    layout: "maps" (B, C, H, W), "channels last" (B, H, W, C), "tokens" (B, T, C) or "sequence first" (T, B, C).
    tokens: T, where there are any.
    alone: the layer is one module with tensors alone as inputs, so that it can be run apart from the network.
    shared: it shares weights with another module, and is right only where it is run apart.
    changed: the network changes these features in place later on, so that the losses need a copy.
    """

    name: str
    modules: tuple[str, ...]
    source: str
    call: int = 0
    calls: int = 0
    shape: tuple[int, int, int]
    layout: str = "maps"
    tokens: int = 0
    alone: bool = False
    changed: bool = False
    shared: bool = False

    def as_maps(self, features: Tensor) -> Tensor:
        """`features` as maps (B, C, H, W). Of tokens, the last H·W are taken: those of classes come first.

        `ImclError` for another number of tokens, of which nobody knows where they are.
        """
        if self.layout == "sequence first":
            features = features.transpose(0, 1)
        if self.layout in ("tokens", "sequence first"):
            _, height, width = self.shape
            if features.shape[1] != self.tokens:
                raise ImclError(
                    f"Layer {self.name!r} returns {features.shape[1]} tokens, and {self.tokens} of an image of "
                    "`image_shape`: give images of that size, or leave it out of `layers`."
                )
            return features[:, -height * width :].mT.unflatten(2, (height, width))
        return features.permute(0, 3, 1, 2) if self.layout == "channels last" else features


def find_modules(network: nn.Module, patterns: str | Sequence[str]) -> list[tuple[str, bool]]:
    """Names of the network's modules that `patterns` stand for, each with whether it was named in full.

    A pattern is a shell's (`*`, `?`, `[34]`), and is matched part by part: `layer[34].*` stands for `layer3.0`, not for
    `layer3.0.conv1`. Raises `ImclError` for a pattern that stands for nothing.
    """
    known = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    patterns = patterns if isinstance(patterns, Iterable) and not isinstance(patterns, str) else [patterns]
    found: dict[str, bool] = {}
    for pattern in patterns:
        if not isinstance(pattern, str):
            such = f", such as {known[-1]!r}" if known else ""
            raise ImclError(f"Modules are named by strings{such}, not by {_described(pattern)}.")
        matches = [pattern] if pattern in known else [name for name in known if _matches(name, pattern)]
        if not matches:
            has = ", ".join(name for name, _ in network.named_children())
            hint = nearest(pattern, known) or (f" It has: {has}." if has else " It is one module by itself.")
            raise ImclError(f"The network has no module {pattern!r}.{hint}")
        for name in matches:
            found[name] = found.get(name, False) or name == pattern
    return list(found.items())


def _described(pattern: object) -> str:
    return f"a {type(pattern).__name__}" if isinstance(pattern, nn.Module) else repr(pattern)


def _matches(name: str, pattern: str) -> bool:
    names, patterns = name.split("."), pattern.split(".")
    return len(names) == len(patterns) and all(map(fnmatchcase, names, patterns))
