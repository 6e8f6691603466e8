"""Images of 12 bits in 16."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from mnv2_perception.vision.low_bits import LowBits

DARK, BRIGHT = (np.full((4, 6, 3), value, np.uint8) for value in (16, 17))


def raw(encoding: str) -> SimpleNamespace:
    return SimpleNamespace(encoding=encoding)


@pytest.mark.parametrize('msg', [
    raw('mono16'), raw('bayer_rggb16'), raw('rgb16'),
    SimpleNamespace(format='mono16; png compressed '),
])
def test_twelve_bits_in_sixteen_are_told_once_of_each_topic_with_the_cure(
    msg: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    watch = LowBits()
    for _ in range(4):
        watch.look('/left', msg, DARK)
    assert not caplog.text
    for _ in range(20):
        watch.look('/left', msg, DARK)
        watch.look('/right', msg, DARK)
    left, right = caplog.messages
    assert left.startswith('/left: the first 5 images (') and right.startswith('/right: ')
    assert 'values up to 4112 look like 12' in left
    assert 'let the driver shift them to the highest' in left


def test_of_eight_bits_bright_images_and_a_cap_on_the_lens_nothing_is_told(
    caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    watch = LowBits()
    for number in range(20):
        watch.look('/eight', raw('mono8'), DARK)
        watch.look('/png', SimpleNamespace(format='mono8; png compressed '), DARK)
        watch.look('/cap', raw('mono16'), np.zeros_like(DARK))
        watch.look('/settles', raw('mono16'), BRIGHT if number == 4 else DARK)
    assert not caplog.text
