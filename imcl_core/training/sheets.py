"""Records read from their files, with every check that tells a sound one from a damaged or foreign one."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imcl_core.errors import ImclError
from imcl_core.files import unreadable
from imcl_core.networks import MODELS
from imcl_core.training.config import EARLIER, RunConfig
from imcl_core.training.machine import on_gpu
from imcl_core.training.recipes import RECIPES, SIZES, canonical

FORMAT = 2  # of a record's file; the first one, without a digest, did not say so
_CONFIG, _CURVE, _RUN = '\n "config": {', '\n "curve": [', '\n "run": {'  # how these parts begin in a file of ours
_SEED = re.compile(r'\n  "seed": (\d+),')
_MEASURED = ("seconds", "evaluation_seconds", "images_per_s", "peak_memory_gb")
_SETTINGS = frozenset(field.name for field in dataclasses.fields(RunConfig))


class DamagedRecord(ImclError):
    """A file that is called like a record and is none, or not the one that it is called; `aside`: where it is now."""

    def __init__(self, path: Path, why: object, aside: Path | None = None):
        remedy = f"; it is now {aside.name}: run it again." if aside else ": remove it, or run it again."
        super().__init__(f"The record {path} is damaged ({why}){remedy}")
        self.why = why


class NewerRecord(ImclError):
    """A sound record that this version of the project does not know how to read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sheet:
    """What a record's file says; its curve, most of the text, is parsed when it is asked for."""

    path: Path
    config: RunConfig
    run: dict[str, Any]
    _curve: str | list[dict[str, Any]]

    @property
    def curve(self) -> list[dict[str, Any]]:
        return json.loads(self._curve) if isinstance(self._curve, str) else self._curve

    def column(self, name: str) -> list[float]:
        """A number of the epochs that have it, in order: in a file of ours each has a line, and no other is parsed."""
        if isinstance(self._curve, str):
            return [float(rest.partition("\n")[0].rstrip(",")) for rest in self._curve.split(f'\n   "{name}": ')[1:]]
        return [float(epoch[name]) for epoch in self._curve if name in epoch]

    @property
    def images_per_s(self) -> float:
        return self.run["images_per_s"]

    @property
    def maker(self) -> tuple[str, int, str]:
        """Device, number of processes, and on a processor its threads: others make other digits of the same run."""
        threads = [maker.get("threads") for maker in self.run.get("makers", [self.run])]
        known = "" if on_gpu(self.run) or threads == [None] else f"threads {' then '.join(map(str, threads))}"
        return self.run["device"], self.run.get("processes", 1), known


def curve_text(curve: list[dict[str, Any]]) -> str:
    """The lines of a curve in a record's file."""
    return json.dumps({"curve": curve}, indent=1, allow_nan=False)[1:-2]


def digest(text: str) -> str:
    """Sixteen hexadecimal digits that tell one curve's text from any other."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_sheet(path: Path) -> Sheet:
    """The sheet in a file, which is left as it is; `DamagedRecord` or `NewerRecord` where it cannot be used."""
    with _damage_named(path):
        text = path.read_text(encoding="utf-8")
        sheet = _quickly(path, text)
        return sheet or _thoroughly(path, _parse(text))


def _quickly(path: Path, text: str) -> Sheet | None:
    """Where the digest is right, nothing of the curve needs a look; None where that cannot be told at once."""
    begin, start, end = text.find(_CONFIG), text.find(_CURVE), text.rfind(_RUN)
    if not 0 <= begin < start < end:
        return None
    rest = json.loads(f'{text[:begin]}\n "curve": []{text[end - 1 :]}', parse_constant=_refuse)
    settings, lines = text[begin : start - 1], text[start : end - 1]
    if rest.get("format") != FORMAT or rest.get("digest") != digest(lines) or len(_SEED.findall(settings)) != 1:
        return None
    at_zero = _KNOWN.get(key := _SEED.sub("", settings)) or _remember(key, _parse(f"{{{settings}}}")["config"])
    config = at_zero(int(_SEED.search(settings)[1]), path.stem)
    _check_run(rest["run"])
    return Sheet(path, config, rest["run"], lines[lines.index("[") :])


def _parse(text: str) -> dict[str, Any]:
    content = json.loads(text, parse_constant=_refuse)
    if not isinstance(content, dict):
        raise ValueError("it holds no record")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"it holds {constant}")


def _thoroughly(path: Path, content: dict[str, Any]) -> Sheet:
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise NewerRecord(_newer(path, f"format {content['format']}"))
    if missing := [key for key in ("config", "curve", "run") if not content.get(key)]:
        raise ValueError(f"it has no {missing[0]}")
    settings, curve, run = content["config"], content["curve"], content["run"]
    if not isinstance(settings, dict) or not isinstance(curve, list) or not isinstance(run, dict):
        raise ValueError("its parts are of another kind")
    if content.get("format", 1) != 1 and content.get("digest") != digest(curve_text(curve)):
        raise ValueError("its curve is not the one that was written")
    config = _config(settings, path.stem)
    _check_run(run)
    _check_curve(curve, config)
    return Sheet(path, config, run, curve)


def _check_run(run: dict[str, Any]) -> None:
    if not isinstance(run.get("device"), str):
        raise ValueError("run lacks device")
    for name in _MEASURED:
        if type(run.get(name)) not in (int, float) or not 0 <= run[name] < math.inf:
            raise ValueError(f"run has {run.get(name)!r} for {name}")
    if not run["images_per_s"]:
        raise ValueError("run has no speed")


def _check_curve(curve: list[dict[str, Any]], config: RunConfig) -> None:
    """An entry for each epoch, with errors in percent where one is due."""
    if len(curve) != config.epochs:
        raise ValueError(f"it has {len(curve)} epochs of {config.epochs}")
    if [epoch["epoch"] for epoch in curve] != list(range(1, len(curve) + 1)):
        raise ValueError("its epochs are not in order")
    for name in ("test_error", "test_error_top5"):
        if ["epoch" for i, epoch in enumerate(curve) if (name in epoch) != config.evaluates(i)]:
            raise ValueError(f"{name} is not in the epochs that are evaluated")
    for name in ("test_error", "test_error_top5", "train_error"):
        errors = [epoch[name] for epoch in curve if name in epoch]
        if not {*map(type, errors)} <= {int, float} or (errors and not 0 <= min(errors) <= max(errors) <= 100):
            raise ValueError(f"{name} is no percentage in every epoch")
    for name in ("loss", "lr"):
        numbers = [epoch[name] for epoch in curve if name in epoch]
        if not {*map(type, numbers)} <= {int, float} or not all(map(math.isfinite, numbers)):
            raise ValueError(f"{name} is not finite in every epoch")


def _config(settings: dict[str, Any], stem: str) -> RunConfig:
    """The configuration, where it is the one that the file is named for."""
    seed = settings.get("seed", 0)
    at_zero = _KNOWN.get(key := repr(settings | {"seed": 0})) or _remember(key, settings)
    return at_zero(seed, stem)


class _Unknown(Exception):
    """Something in a record's settings that this version lacks."""


class _AtSeeds:
    """A configuration that is to be had fast at any seed, where that is what a file is named for."""

    def __init__(self, config: RunConfig):
        self.config, self.name_at = config, config.names()

    def __call__(self, seed: int, stem: str) -> RunConfig:
        if type(seed) is not int or self.name_at(seed) != stem:
            raise ValueError("its name and its content differ")
        config = object.__new__(RunConfig)  # faster than `replace`, which checks every setting anew
        vars(config).update(vars(self.config), seed=seed)
        return config


_KNOWN: dict[str, _AtSeeds] = {}  # by what a file says of the settings, without the seed


def _remember(key: str, settings: dict[str, Any]) -> _AtSeeds:
    if unknown := [*settings.keys() - _SETTINGS]:
        raise _Unknown(f"setting {unknown[0]}")
    for name, known in (("dataset", RECIPES), ("model", MODELS), ("profile", SIZES)):
        if isinstance(settings.get(name), str) and settings[name] not in known:
            raise _Unknown(f"{name} {settings[name]}")
    try:
        canonical(str(settings.get("methods")))
    except ImclError:
        raise _Unknown(f"methods {settings.get('methods')}") from None
    return _KNOWN.setdefault(key, _AtSeeds(RunConfig(**EARLIER | settings | {"seed": 0})))


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    try:
        yield
    except _Unknown as error:
        raise NewerRecord(_newer(path, str(error))) from None
    except NewerRecord:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ImclError) as error:
        raise DamagedRecord(path, error) from error


def _newer(path: Path, what: str) -> str:
    return f"The record {path} was made by a newer version of this project ({what}): update this one to read it."
