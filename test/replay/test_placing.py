"""Masks on the ground: each frame's by itself."""

from camera_bags import CLASSES, HEIGHT, MATRIX, picture, stamp, WIDTH
from rosbags.typesys import get_typestore, Stores

from mnv2_perception.bags.messages import header
from mnv2_perception.bags.write import camera_info_cdr
from mnv2_perception.replay.placing import Ground, Placer
from mnv2_perception.vision.transforms import TransformTree

OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def test_cells_do_not_depend_on_the_frame_before_where_the_mount_trembles() -> None:
    tree = TransformTree()
    for number in range(2):  # by less than 0.1 mm, which nodes pass over
        tree.add('base_link', 'camera', stamp(number), (0.00005 * number, 0, 1.0, *OPTICAL), False)
    info = get_typestore(Stores.ROS2_JAZZY).deserialize_cdr(
        camera_info_cdr(HEIGHT, WIDTH, MATRIX, stamp(0), 'camera'), 'sensor_msgs/msg/CameraInfo'
    )

    def place(*numbers: int) -> list[dict[str, bytes]]:
        placer = Placer(Ground(grid_frame='base_link'), CLASSES, None, tree)
        placer.calibrate(info)
        return [
            dict(placer.place(picture(n)[..., 0], header(stamp(n), 'camera'), stamp(n)))
            for n in numbers
        ]

    assert place(0, 1)[1] == place(1)[0] != place(0)[0]
