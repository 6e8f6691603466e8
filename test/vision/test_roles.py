"""The role of each class of a mask, by the names an operator gives."""

import pytest

from mnv2_perception.errors import ParameterError
from mnv2_perception.vision.costmap import FORBIDDEN, OBSTACLE, TRAVERSABLE, UNKNOWN
from mnv2_perception.vision.roles import require_marked, roles_of, topics_of_classes

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
    with pytest.raises(
        ParameterError, match=r"\['street'\], expected some of the .*\['car', 'pavement"
    ):
        roles_of(IDS, ['street'], [], [], [])


def test_a_name_in_two_lists_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"\['car', 'road'\] are in two lists"):
        roles_of(IDS, ['road', 'car'], ['road'], ['car'], [])


@pytest.mark.parametrize(
    ('name', 'topic'),
    [
        ('person', 'person'), ('Car', 'Car'), ('traffic light', 'traffic_light'),
        ('traffic-light/red', 'traffic_light_red'), ('low__wall', 'low_wall'),
        ('_own', 'own'), ('(else)', 'else'), ('2-wheeler', 'class_2_wheeler'),
        ('Fußgänger', 'Fu_g_nger'),
    ],
)
def test_a_class_has_a_topic_that_ros_takes(name: str, topic: str) -> None:
    assert topics_of_classes([name]) == {name: topic}


@pytest.mark.parametrize('name', ['', '???', '人', 'x' * 101])
def test_a_class_that_gives_no_topic_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match='which makes no valid topic name'):
        topics_of_classes(['car', name])


def test_two_classes_of_one_topic_are_refused_by_their_names() -> None:
    assert topics_of_classes(['car', 'Car']) == {'car': 'car', 'Car': 'Car'}
    with pytest.raises(ParameterError, match=r"'low wall' and 'low-wall', .* obstacles/low_wall"):
        topics_of_classes(['low wall', 'car', 'low-wall'])


def test_a_class_that_never_blocks_has_no_cloud() -> None:
    require_marked(['car', 'lawn'], ['road'], None)
    require_marked(['car', 'lawn'], ['road'], ['lawn', 'car', 'tree'])
    with pytest.raises(ParameterError, match="'road', which the other lists"):
        require_marked(['car', 'road'], ['road'], None)
    with pytest.raises(ParameterError, match="'person', which the other lists"):
        require_marked(['car', 'person'], ['road'], ['car'])
