"""Every setting is checked where it is made: a run's, a method's, a population's, a task's."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from imcl_core import DenseSettings, ImclError, MethodSettings, PopulationSettings, RunConfig
from imcl_core.settings import Range, Settings, setting

ROOT = Path(__file__).parents[1]
KINDS = (MethodSettings, PopulationSettings, DenseSettings, RunConfig)
FIELDS = {f"{kind.__name__}.{f.name}": (kind, f) for kind in KINDS for f in dataclasses.fields(kind)}
NUMERIC = (int, float, int | None, float | None, tuple[float, float], tuple[int, ...] | None)
NUMBERS = {name: (kind, field) for name, (kind, field) in FIELDS.items() if field.type in NUMERIC}


def entries(field: dataclasses.Field, number: float):
    """A value of the type of `field` with `number` in it."""
    return {"pp_pull": (0.5, number), "pp_push": (number, 0.5), "milestones": (number,)}.get(field.name, number)


def outside(field: dataclasses.Field) -> list:
    r, found = field.metadata["range"], [math.nan, math.inf, -math.inf]
    whole = field.type in (int, int | None, tuple[int, ...] | None)
    found = [] if whole else found
    found += [r.above] if r.above is not None else [r.least - 1, -(10**400)]
    return [*found, r.most + 1 if r.most < 1e9 else 2 * r.most, 10**400]


def test_every_number_has_a_range():
    assert len(NUMBERS) > 60
    for name, (_, field) in NUMBERS.items():
        r = field.metadata["range"]
        assert (r.least is None) != (r.above is None) and r.most is not None, name


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_range_is_refused_where_it_is_made(name):
    kind, field = NUMBERS[name]
    for number in outside(field):
        with pytest.raises(ImclError, match=f"Setting {field.name} must ") as caught:
            kind(**{field.name: entries(field, number)})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [n for n in NUMBERS if not n.startswith("RunConfig")])
def test_the_ends_of_a_range_are_in_it(name):
    kind, field = NUMBERS[name]
    r = field.metadata["range"]
    for number in (r.most, r.least if r.least is not None else 1e-9):
        value = entries(field, number)
        assert getattr(kind(**{field.name: value}), field.name) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attach": "nowhere"}, "value of setting attach 'nowhere'"),
        ({"pp_centre": "bach"}, "Did you mean 'batch'"),
        ({"pp_projection": "5x5"}, "Known: 3x3, 1x1, none"),
        ({"pp_input": "pixel"}, "Did you mean 'pixels'"),
    ],
)
def test_a_word_is_one_of_those_known(settings, message):
    with pytest.raises(ImclError, match=message):
        MethodSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nesterov": True, "momentum": 0}, "Nesterov's momentum needs a momentum"),
        ({"milestones": (3, 1)}, "must rise"),
        ({"dropblock_rate": 1.5}, "dropblock_rate must lie between 0 and 1, not 1.5"),
        ({"kd_alpha": 7}, "kd_alpha must lie between 0 and 1, not 7"),
        ({"lr": 1e300}, "lr must be more than 0 and at most 1e[+]30"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(settings, message):
    with pytest.raises(ImclError, match=message):
        RunConfig(**settings)


def test_a_setting_without_a_range_is_finite():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Free(Settings):
        number: float = setting(1.0, "any")

    assert Free(number=-1e300).number == -1e300
    with pytest.raises(ImclError, match="must be a finite number"):
        Free(number=math.nan)


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"least": 0}, "be at least 0,"),
        ({"above": 0}, "be more than 0,"),
        ({"most": -2}, "be at most -2,"),
        ({"above": -3, "most": -2}, "be more than -3 and at most -2,"),
    ],
)
def test_a_range_says_the_bounds_it_has(bounds, says):
    with pytest.raises(ImclError, match=says):
        Range(**bounds).check("x", 7 if "most" in bounds else -1)
    with pytest.raises(ImclError, match="must be a finite number, not inf"):
        Range(**bounds).check("x", math.inf)


def test_every_record_is_still_in_range():
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / "results").rglob("*.json")]
    configs = [RunConfig(**record["config"]) for record in found if "config" in record]
    assert len(configs) > 100
