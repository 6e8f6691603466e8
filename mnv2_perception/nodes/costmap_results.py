"""CostmapResults: the topics of costmap_node for Nav2's stock layers and its semantic layer."""

from collections.abc import Callable, Mapping

from nav_msgs.msg import OccupancyGrid
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.messages import (
    camera_info_to_msg,
    cloud_to_msg,
    grid_to_msg,
    mask_to_msg,
    scan_to_msg,
)
from mnv2_perception.nodes.qos import LATCHED_QOS
from mnv2_perception.nodes.topics import Publisher
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.marks import Marks
from mnv2_perception.vision.projection import resize_points


class CostmapResults:
    """The publishers of one costmap_node.

    Args:
        publisher: creates a publisher, given a message type, a topic and optionally a QoS.
        topic_of_class: topic below `obstacles` of each class that has its own cloud, by class.
    """

    def __init__(
        self, publisher: Callable[..., Publisher], topic_of_class: Mapping[str, str]
    ) -> None:
        self.label_info = publisher(LabelInfo, 'semantic/label_info', LATCHED_QOS)
        self.mask = publisher(Image, 'semantic/mask')
        self._confidence = publisher(Image, 'semantic/confidence')
        self._points = publisher(PointCloud2, 'semantic/points')
        self._camera_info = publisher(CameraInfo, 'semantic/camera_info')
        self._obstacles = publisher(PointCloud2, 'obstacles')
        self._of_classes = {
            name: publisher(PointCloud2, f'obstacles/{topic}')
            for name, topic in topic_of_class.items()
        }
        self._ground = publisher(PointCloud2, 'ground')
        self._scan = publisher(LaserScan, 'scan')
        self._grid = publisher(OccupancyGrid, 'grid', LATCHED_QOS)

    def publish(
        self, marks: Marks, id_of: Mapping[str, int], in_base: Header, in_grid: Header
    ) -> None:
        """Publish what a mask marks and clears; also empty clouds, since a layer keeps the last.

        A class that the masks cannot show, because `id_of` lacks it, gets no cloud: an empty one
        would claim that it is absent.
        """
        self._ground.publish(cloud_to_msg(marks.ground, in_base))
        self._obstacles.publish(cloud_to_msg(marks.obstacles, in_base))
        self._scan.publish(scan_to_msg(marks.scan, in_base))
        self._grid.publish(grid_to_msg(marks.grid, in_grid))
        for name, publisher in self._of_classes.items():
            if name in id_of and publisher.get_subscription_count():
                publisher.publish(cloud_to_msg(marks.obstacles_of(id_of[name]), in_base))

    def publish_semantic(
        self,
        ids: NDArray[np.uint8],
        confidence: NDArray[np.uint8],
        points: NDArray[np.float32],
        info: CameraInfo | None,
        size: tuple[int, int],
        in_image: Header,
        in_base: Header,
    ) -> None:
        """Publish messages of one size and stamp, the mask last: whoever gets it has the rest."""
        if info:
            self._camera_info.publish(camera_info_to_msg(info, *size, in_image))
        self._points.publish(cloud_to_msg(resize_points(points, *size), in_base))
        self._confidence.publish(mask_to_msg(resize_ids(confidence, *size), in_image))
        self.mask.publish(mask_to_msg(resize_ids(ids, *size), in_image))
