"""The role of each class of a mask, by the names an operator gives."""

import pytest

from mnv2_perception.errors import ParameterError
from mnv2_perception.vision.costmap import FORBIDDEN, OBSTACLE, TRAVERSABLE, UNKNOWN
from mnv2_perception.vision.roles import roles_of

IDS = {'sky': 0, 'road': 1, 'pavement': 2, 'car': 7, 'tree': 200}


def test_what_nobody_named_stands_in_the_way() -> None:
    roles = roles_of(IDS, ['road'], ['pavement'], [], ['sky'])
    assert {name: roles[class_id] for name, class_id in IDS.items()} == {
        'sky': UNKNOWN, 'road': TRAVERSABLE, 'pavement': FORBIDDEN, 'car': OBSTACLE,
        'tree': OBSTACLE,
    }
    assert roles.shape == (256,) and roles[255] == roles[3] == UNKNOWN  # no class of the mask


def test_named_obstacles_are_the_only_ones() -> None:
    roles = roles_of(IDS, ['road'], [], ['car'], [])
    assert roles[IDS['car']] == OBSTACLE
    assert roles[IDS['tree']] == roles[IDS['pavement']] == UNKNOWN


def test_names_that_the_mask_lacks_are_no_matter() -> None:
    roles = roles_of(IDS, ['lawn', 'road'], ['stairs'], [], ['fog'])
    assert roles[IDS['road']] == TRAVERSABLE


def test_a_mask_without_traversable_class_is_refused_with_its_names() -> None:
    with pytest.raises(ParameterError, match=r"\['street'\], expected some of \['car', 'pavement"):
        roles_of(IDS, ['street'], [], [], [])


def test_a_name_in_two_lists_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"\['car', 'road'\] in two lists"):
        roles_of(IDS, ['road', 'car'], ['road'], ['car'], [])
