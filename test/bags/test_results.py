"""Reports of a recorded run: counts that add up, latency, accuracy, pictures."""

from pathlib import Path

import cv2
from identity_network import identity_spec
import numpy as np
import pytest

from mnv2_perception.bags.camera import CameraTopics, find_camera, read_ids, read_images
from mnv2_perception.bags.read import jazzy_types
from mnv2_perception.bags.results import (
    NamedBoxes,
    read_classifications,
    read_detections,
    read_grids,
    read_last_diagnostics,
)
from mnv2_perception.bags.write import (
    BagWriter,
    camera_info_cdr,
    compressed_image_cdr,
    image_cdr,
)
from mnv2_perception.demo.pictures import draw_results, Results
from mnv2_perception.errors import BagError
from mnv2_perception.evaluation.recording import (
    account,
    accuracy,
    latencies_ms,
    paired,
    percentile,
    spread,
)
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.overlay import FREE, OCCUPIED

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
INFO = 'sensor_msgs/msg/CameraInfo'
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def write_bag(path: Path, **topics: str) -> Path:
    """Write a bag with one message on each topic; `a__b` is the topic /a/b."""
    png = cv2.imencode('.png', PIXELS[..., 0])[1].tobytes()
    with BagWriter(path) as bag:
        for name, type_name in topics.items():
            topic = '/' + name.replace('__', '/')
            bag.add_topic(topic, type_name)
            if type_name == COMPRESSED:
                bag.write(topic, 1, compressed_image_cdr(png, 1, 'camera', 'mono8; png'))
            elif type_name == INFO:
                bag.write(topic, 1, camera_info_cdr(4, 6, np.eye(3), 1, 'camera'))
            else:
                bag.write(topic, 1, image_cdr(PIXELS, 1, 'camera'))
    return path


@pytest.fixture
def results_bag(tmp_path: Path) -> Path:
    pytest.importorskip('rclpy', reason='no rclpy: run make setup, or source a ROS distro')
    from results_bag import write_results_bag

    return write_results_bag(tmp_path / 'results')


@pytest.mark.ros
def test_detections_are_read_as_boxes_scores_and_names(results_bag: Path) -> None:
    (stamp_ns, found), (_, none) = read_detections(results_bag, '/detections')
    assert stamp_ns == 1_000_000_005
    np.testing.assert_allclose(found.boxes, [[1.5, 2, 30, 20.25], [0, 0, 5, 5]])
    assert found.scores.tolist() == [0.75, 0.5] and found.names == ('dog', 'car')
    assert none.boxes.shape == (0, 4) and none.scores.shape == (0,) and none.names == ()


@pytest.mark.ros
def test_classifications_are_read_as_names_and_scores(results_bag: Path) -> None:
    assert list(read_classifications(results_bag, '/classification')) == [
        (1_000_000_005, [('grass', 0.75), ('road', 0.5)]), (2_000_000_005, []),
    ]


@pytest.mark.ros
def test_grids_come_back_as_they_were_published(results_bag: Path) -> None:
    (stamp_ns, grid), (later_ns, _) = read_grids(results_bag, '/grid')
    assert (stamp_ns, later_ns) == (1_000_000_005, 2_000_000_005)
    assert grid.cells.dtype == np.int8
    assert grid.cells.tolist() == np.arange(-1, 99).reshape(4, 25).tolist()
    assert (grid.origin_x_m, grid.origin_y_m, grid.resolution_m) == (-3.25, 1.5, 0.25)


@pytest.mark.ros
def test_a_topic_of_another_type_is_refused(results_bag: Path) -> None:
    with pytest.raises(BagError, match='is of type nav_msgs/msg/OccupancyGrid, expected vision'):
        next(read_detections(results_bag, '/grid'))


@pytest.mark.parametrize(
    ('received', 'published', 'masks_out'), [(90, 60, 60), (88, 60, 57), (100, 70, 70)]
)
def test_every_frame_is_accounted_for(received: int, published: int, masks_out: int) -> None:
    passed_over = received - published - 2
    node = {
        'received': str(received), 'published': str(published), 'rejected': '2',
        'passed_over': str(passed_over),
    }
    counts = account(100, masks_out, node)
    assert counts['frames_in'] == counts['masks_out'] + counts['dropped']
    assert counts['lost'] == (100 - received) + (published - masks_out)
    assert counts['dropped'] == counts['passed_over'] + counts['rejected'] + counts['lost']
    assert (counts['passed_over'], counts['rejected']) == (passed_over, 2)


def test_latency_is_from_a_frames_publication_to_its_masks_arrival(tmp_path: Path) -> None:
    sent, received = tmp_path / 'sent.csv', tmp_path / 'received.csv'
    sent.write_text(
        'topic,stamp_ns,published_ns\n/image,10,1000000\n/image,20,2000000\n/other,30,0\n'
        '/image,40,4000000\n/tf,,5\n'
    )
    received.write_text(
        'topic,stamp_ns,received_ns\n/mask,10,3500000\n/confidence,20,9\n/mask,40,4250000\n'
        '/mask,30,7\n/mask,99,8\n'
    )
    assert latencies_ms(sent, received, '/image', '/mask') == [2.5, 0.25]


def test_percentiles_of_nothing_are_none() -> None:
    assert percentile([], 0.5) is None
    assert percentile([1.0, 2.0, 4.0], 0.5) == 2.0


def test_masks_are_compared_with_the_labels_of_their_stamps() -> None:
    zeros, ones = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    masks = [(1, zeros), (2, ones), (3, ones), (4, np.zeros((3, 3), np.uint8))]
    labels = [(1, zeros), (2, zeros), (4, zeros), (5, ones)]
    matrix = accuracy(labels, masks, 2)
    assert matrix.counts.tolist() == [[4, 4, 0], [0, 0, 0]]


def test_the_camera_is_the_first_that_is_neither_depth_nor_labels(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / 'bag', camera__aligned_depth__image=IMAGE, camera__label__compressed=COMPRESSED,
        camera__rgb__image=IMAGE, camera__rgb__image__compressed=COMPRESSED,
    )
    assert find_camera(bag) == CameraTopics(
        '/camera/rgb/image', False, '/camera/label/compressed', None
    )


def test_a_chosen_topic_is_taken_whatever_its_name(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', depthai__rgb=COMPRESSED)
    assert find_camera(bag, '/depthai/rgb') == CameraTopics(
        '/depthai/rgb', True, None, None
    )


def test_the_camera_info_is_that_of_the_images_namespace(tmp_path: Path) -> None:
    bag = write_bag(
        tmp_path / 'bag', left__image=IMAGE, left__camera_info=INFO, rear__image=IMAGE,
        right__image__compressed=COMPRESSED, right__camera_info=INFO, camera_info=INFO,
    )
    found = [
        find_camera(bag, topic).info
        for topic in ('/left/image', '/right/image/compressed', '/rear/image')
    ]
    assert found == ['/left/camera_info', '/right/camera_info', None]


def test_a_topic_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', camera__image=IMAGE)
    with pytest.raises(BagError, match=r'no images on /image; it has /camera/image'):
        find_camera(bag, '/image')


def test_a_bag_without_images_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', camera__depth=IMAGE)
    with pytest.raises(BagError, match='has no images'):
        find_camera(bag)


def test_images_and_ids_are_read_raw_and_compressed(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / 'bag', raw=IMAGE, packed=COMPRESSED)
    (stamp_ns, image), = read_images(bag, '/raw')
    assert stamp_ns == 1 and np.array_equal(image, PIXELS)
    (_, gray), = read_images(bag, '/packed')
    assert np.array_equal(gray[..., 2], PIXELS[..., 0])
    (_, ids), = read_ids(bag, '/packed')
    assert np.array_equal(ids, PIXELS[..., 0])


def test_the_last_diagnostics_of_the_node_count(tmp_path: Path) -> None:
    types = jazzy_types()
    time = types.types['builtin_interfaces/msg/Time'](sec=0, nanosec=0)
    header = types.types['std_msgs/msg/Header'](stamp=time, frame_id='')
    pair = types.types['diagnostic_msgs/msg/KeyValue']
    status = types.types['diagnostic_msgs/msg/DiagnosticStatus']
    array = types.types['diagnostic_msgs/msg/DiagnosticArray']
    with BagWriter(tmp_path / 'bag') as bag:
        bag.add_topic('/diagnostics', 'diagnostic_msgs/msg/DiagnosticArray')
        for stamp_ns, name, value in ((1, 'node: frames', '1'), (2, 'node: frames', '2'),
                                      (3, 'other: frames', '3')):
            message = array(header=header, status=[status(
                level=0, name=name, message='', hardware_id='',
                values=[pair(key='received', value=value)],
            )])
            cdr = types.serialize_cdr(message, 'diagnostic_msgs/msg/DiagnosticArray')
            bag.write('/diagnostics', stamp_ns, bytes(cdr))
    values = read_last_diagnostics(tmp_path / 'bag', '/diagnostics', 'node')
    assert values == {'received': '2'}
    with pytest.raises(BagError, match='no status of absent'):
        read_last_diagnostics(tmp_path / 'bag', '/diagnostics', 'absent')


def test_frames_of_equal_stamps_are_paired() -> None:
    frame = np.zeros((2, 2), np.uint8)
    left = [(stamp, frame + stamp) for stamp in (1, 2, 4, 5)]
    right = [(stamp, frame + 10 * stamp) for stamp in (0, 2, 3, 5, 6)]
    found = [(stamp, a[0, 0], b[0, 0]) for stamp, a, b in paired(left, right)]
    assert found == [(2, 2, 20), (5, 5, 50)]


@pytest.mark.parametrize(
    ('stamps', 'count', 'chosen'),
    [(list(range(0, 101, 10)), 3, {0, 50, 100}), ([7], 6, {7}), ([1, 2], 6, {1, 2})],
)
def test_pictures_are_spread_over_the_run(
    stamps: list[int], count: int, chosen: set[int]
) -> None:
    assert spread(stamps, count) == chosen


def test_one_picture_shows_mask_boxes_class_time_and_grid() -> None:
    spec = identity_spec(8, 8, classes=['road', 'sky'], colours=[[200, 0, 0], [0, 200, 0]])
    image = np.full((200, 80, 3), 100, np.uint8)
    image.flags.writeable = False
    boxes = NamedBoxes(
        np.array([[20, 30, 60, 50]], np.float32), np.array([0.9], np.float32), ('dog',)
    )
    grid = Grid(np.zeros((16, 16), np.int8), -4.0, -4.0, 0.5)
    grid.cells[:8] = 100  # to the right
    results = Results(
        1.5, image, np.zeros((200, 80), np.uint8), boxes, [('road', 0.8)], grid
    )
    picture = draw_results(results, spec, {'dog': (10, 20, 250)})
    corner = np.argwhere((picture == (150, 50, 50)).all(axis=-1))[0]  # of the mask: a caption
    shown = picture[corner[0] : corner[0] + 200]
    assert corner[0] > 10 and corner[1] == 0
    assert shown[40, 20].tolist() == [10, 20, 250]
    panel = shown[:, -200:]
    assert tuple(panel[150, 20].tolist()) == FREE and tuple(panel[150, 180].tolist()) == OCCUPIED
    silent = draw_results(Results(1.5, image), spec, {})
    assert silent.shape[1] < picture.shape[1]
    assert (picture[: corner[0]] < 80).sum() > (silent[: corner[0]] < 80).sum() > 0
