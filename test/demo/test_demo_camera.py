"""Where the demo takes the camera to be."""

from mnv2_perception.bags.camera import CameraTopics
from mnv2_perception.demo.camera import AssumedCamera, place_camera


def test_what_a_bag_tells_of_its_camera_is_taken_and_the_rest_assumed() -> None:
    assumed = AssumedCamera(height_m=0.4, pitch_rad=0.1, horizontal_fov_rad=1.2)
    mute = CameraTopics('/front/image_raw/compressed', True, None, None)
    values, words = place_camera(mute, assumed)
    assert (values['camera_z_m'], values['camera_pitch_rad']) == (0.4, 0.1)
    assert values['horizontal_fov_rad'] == 1.2 and not values['rectified']
    assert words == 'assumed: 0.40 m above flat ground, pitch 0.10 rad, 1.20 rad wide'
    told = CameraTopics('/front/image_rect', False, None, '/front/camera_info')
    values, words = place_camera(told, assumed)
    assert 'horizontal_fov_rad' not in values and values['rectified']
    assert words == 'camera_info; assumed: 0.40 m above flat ground, pitch 0.10 rad'
