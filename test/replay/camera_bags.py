"""Write small camera bags for the identity network, and run it on them by the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from identity_network import identity_spec, write_fake
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.bags.messages import header, make, serialised
from mnv2_perception.bags.read import BagMessage, BagReader
from mnv2_perception.bags.write import BagWriter, camera_info_cdr, image_cdr
from mnv2_perception.cli.main import main

HEIGHT, WIDTH = 48, 64
CLASSES = ['floor', 'car', 'wall']
START_NS = 1_700_000_000_000_000_000
IMAGE, INFO = '/camera/image_raw', '/camera/camera_info'
PERIOD_NS = 100_000_000
MATRIX = np.array([[60.0, 0, 31.5], [0, 60.0, 23.5], [0, 0, 1.0]])


def picture(number: int) -> NDArray[np.uint8]:
    """Return an image whose red channel is the mask: a wall above the floor, a moving car."""
    rng = np.random.default_rng(number)
    image = rng.integers(1, 256, (HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 0
    image[: HEIGHT // 2, :, 0] = 2
    image[20:45, 3 * number : 3 * number + 8, 0] = 1
    return image


def stamp(number: int) -> int:
    return START_NS + number * PERIOD_NS


def transform_cdr(
    parent: str, child: str, stamp_ns: int, x: float = 0.0, z: float = 0.0,
    turn: Sequence[float] = (0.0, 0.0, 0.0, 1.0),
) -> bytes:
    quaternion = make('geometry_msgs/msg/Quaternion', **dict(zip('xyzw', turn, strict=True)))
    return serialised(make('tf2_msgs/msg/TFMessage', transforms=[make(
        'geometry_msgs/msg/TransformStamped', header=header(stamp_ns, parent),
        child_frame_id=child, transform=make(
            'geometry_msgs/msg/Transform', rotation=quaternion,
            translation=make('geometry_msgs/msg/Vector3', x=x, z=z),
        ),
    )]))


def write_bag(
    path: Path, frames: int = 8, storage: str = 'mcap', calibrated: bool = True, tf: bool = False,
    numbers: Sequence[int] = (), matrix: NDArray[np.float64] = MATRIX,
) -> Path:
    """Write raw images, optionally their calibration and the robot's transforms."""
    with BagWriter(path, storage) as bag:
        bag.add_topic(IMAGE, 'sensor_msgs/msg/Image')
        bag.add_topic('/count', 'std_msgs/msg/UInt32')
        if calibrated:
            bag.add_topic(INFO, 'sensor_msgs/msg/CameraInfo')
        if tf:
            bag.add_topic('/tf', 'tf2_msgs/msg/TFMessage')
            bag.add_topic('/tf_static', 'tf2_msgs/msg/TFMessage')
            optical = (-0.5, 0.5, -0.5, 0.5)
            bag.write('/tf_static', stamp(0), transform_cdr(
                'base_link', 'camera', 0, 0.2, 1.0, optical))
        for number in numbers or range(frames):
            if calibrated:
                bag.write(INFO, stamp(number), camera_info_cdr(
                    HEIGHT, WIDTH, matrix, stamp(number), 'camera'))
            bag.write(IMAGE, stamp(number), image_cdr(picture(number), stamp(number), 'camera'))
            bag.write('/count', stamp(number) + 1, b'\0\1\0\0' + bytes([number, 0, 0, 0]))
            if tf:  # odometry of a robot at 1 m/s comes late
                bag.write('/tf', stamp(number) + 60_000_000, transform_cdr(
                    'odom', 'base_link', stamp(number) + 20_000_000, 0.1 * number + 0.02))
    return path


def write_model(path: Path, **changes: Any) -> Path:
    """Write the identity network, whose ids are the red channel."""
    batch, latency_ms = changes.pop('batch', 1), changes.pop('latency_ms', 0.0)
    return write_fake(
        path, identity_spec(HEIGHT, WIDTH, classes=CLASSES, **changes), latency_ms, batch
    )


def run(bag: Path | Sequence[Path], out: Path, *options: str) -> int:
    """Run `mnv2 bag run` with the model beside the file of results."""
    bags = [bag] if isinstance(bag, Path) else bag
    model = out.parent / 'model.yaml'
    if not model.exists():
        write_model(model)
    return main([
        'bag', 'run', *map(str, bags), '--out', str(out), '--model', str(model), '--engine',
        'fake', *options,
    ])


def messages(path: Path, topic: str) -> list[BagMessage]:
    with BagReader(path) as bag:
        return list(bag.messages([topic])) if topic in {each.name for each in bag.topics} else []


def read(path: Path, topic: str) -> list[Any]:
    with BagReader(path) as bag:
        return [bag.deserialize(message) for message in bag.messages([topic])]


def masks(path: Path) -> dict[int, NDArray[np.uint8]]:
    """Return the masks by stamp, ns."""
    return {
        msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec:
            msg.data.reshape(msg.height, msg.width)
        for msg in read(path, '/segmentation/mask')
    }
