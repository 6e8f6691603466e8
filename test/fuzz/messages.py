"""Valid messages of a small camera, as seeds for fuzzing."""

from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header
from vision_msgs.msg import LabelInfo

from mnv2_perception.nodes.messages import (
    cloud_to_msg,
    label_info_to_msg,
    mask_to_msg,
    pinhole_to_msg,
)
from mnv2_perception.vision.camera import Camera

HEIGHT, WIDTH = 24, 32
CLASSES = ('floor', 'stairs', 'obstacle', 'background')
CAMERA = Camera.from_fov(HEIGHT, WIDTH, 1.1)
_BYTES_A_PIXEL = {
    'rgb8': 3, 'bgra8': 4, 'mono16': 2, 'bayer_rggb8': 1, 'nv12': 1.5, 'nv24': 3, 'yuv422': 2,
}


def stamped(sec: int = 1000, nanosec: int = 7) -> Header:
    header = Header(frame_id='camera_optical')
    header.stamp.sec, header.stamp.nanosec = sec, nanosec
    return header


def ids() -> Any:
    """Return a mask: floor below, background above, an obstacle in between."""
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    drawn[:10], drawn[8:16, 12:20] = 3, 2
    return drawn


def image(encoding: str = 'rgb8', header: Header | None = None) -> Image:
    """Return a camera image; in rgb8 the red channel holds `ids`, for the fake engine."""
    size = round(HEIGHT * WIDTH * _BYTES_A_PIXEL[encoding])
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    if encoding == 'rgb8':
        data = np.stack([ids(), np.full_like(ids(), 200), ids()], axis=-1)
    step = size // HEIGHT if encoding not in ('nv12', 'nv24') else WIDTH
    return Image(
        header=header or stamped(), height=HEIGHT, width=WIDTH, encoding=encoding, step=step,
        data=data.tobytes(),
    )


def compressed(kind: str = 'png', header: Header | None = None) -> CompressedImage:
    pixels = np.frombuffer(image().data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    stored = cv2.imencode(f'.{kind}', pixels[..., ::-1])[1]
    return CompressedImage(
        header=header or stamped(), format=f'rgb8; {kind} compressed bgr8', data=stored.tobytes()
    )


def camera_info(model: str = 'plumb_bob', header: Header | None = None) -> CameraInfo:
    info = pinhole_to_msg(CAMERA)
    info.header, info.distortion_model = header or stamped(), model
    info.d = [0.01, -0.01, 0.0, 0.0] + [0.0] * (model == 'plumb_bob')
    return info


def depth(encoding: str = '32FC1', header: Header | None = None) -> Image:
    metres = np.full((HEIGHT, WIDTH), 3.0)
    stored = (metres * 1000).astype('<u2') if encoding == '16UC1' else metres.astype('<f4')
    return Image(
        header=header or stamped(), height=HEIGHT, width=WIDTH, encoding=encoding,
        step=stored.itemsize * WIDTH, data=stored.tobytes(),
    )


def cloud(header: Header | None = None) -> PointCloud2:
    points = np.random.default_rng(0).uniform(-1, 5, (HEIGHT, WIDTH, 3)).astype(np.float32)
    return cloud_to_msg(points, header or stamped())


def label_info(header: Header | None = None) -> LabelInfo:
    return label_info_to_msg(CLASSES, header or stamped(), 0.0)


def mask(header: Header | None = None) -> Image:
    return mask_to_msg(ids(), header or stamped())
