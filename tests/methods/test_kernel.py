"""The kernel's loss: which kernels it takes."""

import pytest
from collaborations import make


@pytest.mark.parametrize("model", ["vgg16", "resnet18"])
def test_kernel_covers_the_last_two_groups(model):
    kernels = make(model, "kernel").kernels
    prefix = {"vgg16": ("trunk.group4.", "trunk.group5."), "resnet18": ("trunk.stage3.", "trunk.stage4.")}[model]
    assert len(kernels) == {"vgg16": 6, "resnet18": 8}[model]
    assert all(name.startswith(prefix) for name in kernels)


def test_kernel_takes_the_shortcuts_where_asked():
    plain, asked = (set(make("resnet18", "kernel", kernel_pointwise=on).kernels) for on in (False, True))
    assert asked - plain == {f"trunk.stage{s}.block1.last.shortcut.0" for s in (3, 4)} and plain < asked
    assert make("vgg16", "kernel", kernel_pointwise=True).kernels == make("vgg16", "kernel").kernels
