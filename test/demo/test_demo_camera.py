"""Where the demo takes the camera to be."""

from identity_network import identity_spec
import pytest

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.demo.camera import AssumedCamera, choose_roles, place_camera
from mnv2_perception.errors import ParameterError

MUTE = CameraTopics('/front/image_raw/compressed', True, None, None)


def test_what_a_bag_tells_of_its_camera_is_taken_and_the_rest_assumed() -> None:
    assumed = AssumedCamera(height_m=0.4, pitch_rad=0.1, horizontal_fov_rad=1.2)
    values, words = place_camera(MUTE, assumed)
    assert (values['camera_z_m'], values['camera_pitch_rad']) == (0.4, 0.1)
    assert values['horizontal_fov_rad'] == 1.2 and not values['rectified']
    assert words == 'assumed: 0.40 m above flat ground, pitch 0.10 rad, 1.20 rad wide'
    told = CameraTopics('/front/image_rect', False, None, '/front/camera_info')
    values, words = place_camera(told, assumed)
    assert 'horizontal_fov_rad' not in values and values['rectified']
    assert words == 'camera_info; assumed: 0.40 m above flat ground, pitch 0.10 rad'


def test_the_ground_of_another_s_model_is_what_was_named() -> None:
    spec = identity_spec(32, 32, classes=['asphalt', 'grass', 'sky', 'stairs', 'person'])
    lists, said = choose_roles(spec, {'traversable_classes': ['asphalt', 'stairs']})
    assert said == ''
    assert lists == {
        'traversable_classes': ['asphalt', 'stairs'], 'forbidden_classes': [],
        'obstacle_classes': [], 'ignored_classes': ['sky'],
    }
    values, _ = place_camera(MUTE, None, lists)
    assert values['traversable_classes'] == ['asphalt', 'stairs']
    assert values['forbidden_classes'] == values['obstacle_classes'] == ['']


def test_without_ground_there_is_no_grid_and_the_cure_is_told() -> None:
    spec = identity_spec(32, 32, classes=['asphalt', 'person'])
    assert choose_roles(spec, {}) == ({}, (
        'none: identity has none of the classes floor, sidewalk, road; name its ground with '
        '--traversable; its classes are asphalt, person'
    ))
    lists, said = choose_roles(spec, {'traversable_classes': ['asfalt']})
    assert not lists
    assert "of the classes asfalt; the model has no class 'asfalt' (is asphalt meant?)" in said


def test_a_class_that_the_model_has_not_is_told_and_left_out() -> None:
    spec = identity_spec(32, 32, classes=['floor', 'wall', 'person'])
    lists, said = choose_roles(spec, {
        'traversable_classes': ['floor', 'road'], 'obstacle_classes': ['persons'],
    })
    assert said == (
        "the model has no class 'road'; the model has no class 'persons' (is person meant?)"
    )
    assert (lists['traversable_classes'], lists['obstacle_classes']) == (['floor'], [])


def test_a_class_in_two_lists_is_refused_before_anything_runs() -> None:
    spec = identity_spec(32, 32, classes=['floor', 'wall'])
    with pytest.raises(ParameterError, match='two lists'):
        choose_roles(spec, {'traversable_classes': ['floor'], 'forbidden_classes': ['floor']})
