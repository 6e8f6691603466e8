"""Calibrated cameras: from pixels to rays and back, with lens distortion.

A camera's optical frame is that of ROS (REP 103): x to the right, y down and z ahead. The centres
of pixels have integer coordinates, as in OpenCV.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
import math
import re
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import CalibrationError, quoted
from mnv2_perception.vision.pose import Doubles

Floats = NDArray[np.float32]

# sensor_msgs/distortion_models.hpp; 'fisheye' is what some drivers call 'equidistant'.
_LENGTHS_OF_D = {
    'plumb_bob': (4, 5),
    'rational_polynomial': (8,),
    'equidistant': (4,),
    'fisheye': (4,),
}
_FISHEYE = ('equidistant', 'fisheye')
MAX_PIXELS = 16_000_000  # the geometry takes up to 200 bytes per pixel while it is computed
_ROUND_TRIP_PX = 0.1
_MAX_FOCAL_RATIO = 4.0  # of fx to fy or vice versa: no lens distorts more
_MIDDLE = 0.2, 0.8  # fractions of the image's sides between which a principal point lies
_MIN_FOCAL_SHARE = 0.01  # of the image's width: a pinhole camera of 178°, not a fisheye
_LONGEST = 100  # most coefficients of a lens, and most letters of its model's name
_RECTIFIED = re.compile('(^|[/_])rect(ified)?([/_]|$)')  # image_rect, rect/image


class RegionOfInterestFields(Protocol):
    """The fields of a sensor_msgs/RegionOfInterest."""

    x_offset: int
    y_offset: int
    height: int
    width: int


class CameraInfoFields(Protocol):
    """The fields of a sensor_msgs/CameraInfo."""

    height: int
    width: int
    distortion_model: str
    d: Sequence[float]
    k: Sequence[float]
    r: Sequence[float]
    p: Sequence[float]
    binning_x: int
    binning_y: int
    roi: RegionOfInterestFields


@dataclass(frozen=True)
class Camera:
    """Intrinsics of a camera for one image size: a pinhole camera with a lens.

    Attributes:
        height: height of the image, pixels.
        width: width of the image, pixels.
        fx: focal length along x, pixels.
        fy: focal length along y, pixels.
        cx: column of the principal point, pixels.
        cy: row of the principal point, pixels.
        distortion: OpenCV's coefficients; empty for an image without distortion.
        fisheye: whether they are those of OpenCV's fisheye model (Kannala-Brandt, 2006).
        rotation: camera_info's R, row by row: it rotates rays of the unrectified image into the
            frame of the rectified one, as in image_geometry.
    """

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    rotation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_info(cls, info: CameraInfoFields, rectified: bool = False) -> 'Camera':
        """Read a camera_info, including its binning and region of interest.

        Args:
            info: a sensor_msgs/CameraInfo.
            rectified: whether the image is rectified (image_rect): then P counts, not K, D and R.

        Raises:
            CalibrationError: the camera is not calibrated, or the message contradicts itself.
        """
        height, width = image_size(info)
        k, p = scaled_matrices(info, height, width)
        if not rectified and not k.any():
            raise CalibrationError(
                'camera_info: K is zero and only P is given, as for a rectified image; set '
                'rectified to true if it is one, or calibrate the camera (camera_calibration)'
            )
        matrix = p if rectified else k
        if matrix[0, 0] < _MIN_FOCAL_SHARE * width:
            raise CalibrationError(
                f'camera_info: {"P" if rectified else "K"} has a focal length of '
                f'{matrix[0, 0]:.3g} pixels in an image {width} pixels wide, which no lens has: '
                f'the camera is not calibrated (an identity matrix?); calibrate it '
                f'(camera_calibration) and have the driver load the result'
            )
        d, r = tuple(map(float, info.d)), tuple(map(float, info.r))
        longest = max(_LENGTHS_OF_D.get(info.distortion_model, (8,)))
        if not any(d[longest:]):
            d = d[:longest]  # such as thin prism and tilt, for which ROS has no model
        if rectified or not any(d):
            d = ()  # then the model's name does not matter, and simulators omit it
        elif len(d) not in _LENGTHS_OF_D.get(info.distortion_model, ()):
            known = '; '.join(f'{name}: {counts}' for name, counts in _LENGTHS_OF_D.items())
            raise CalibrationError(
                f'camera_info: distortion model {quoted(info.distortion_model)} with {len(d)} '
                f'coefficients, expected one of ({known}); calibrate with one of these, or give '
                f'the rectified image'
            )
        if max(len(info.d), len(info.distortion_model)) > _LONGEST:
            raise CalibrationError(
                f'camera_info: {len(info.d)} coefficients of the distortion model '
                f'{quoted(info.distortion_model)}, expected at most {_LONGEST}, and as many '
                f'letters; correct the camera driver'
            )
        if not np.isfinite(d + r).all():
            raise CalibrationError(
                f'camera_info: D is {d} and R is {r}, not finite; calibrate the camera again'
            )
        return cls(
            height, width, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2], d,
            info.distortion_model in _FISHEYE, cls.rotation if rectified or not any(r) else r,
        )

    @classmethod
    def from_fov(cls, height: int, width: int, horizontal_fov_rad: float) -> 'Camera':
        """Make an ideal pinhole camera: square pixels, no distortion, its axis in the middle.

        Args:
            height: height of the image, pixels.
            width: width of the image, pixels.
            horizontal_fov_rad: angle between the left and the right edge of the image, 0 to π.

        Raises:
            CalibrationError: a pinhole camera cannot have this field of view.
        """
        if not 0.0 < horizontal_fov_rad < math.pi:
            raise CalibrationError(
                f'horizontal field of view of {horizontal_fov_rad} rad, expected more than 0 and '
                f'less than π; for a wider camera, calibrate it and give its camera_info'
            )
        focal_px = width / 2 / math.tan(horizontal_fov_rad / 2)
        return cls(height, width, focal_px, focal_px, (width - 1) / 2, (height - 1) / 2)

    def require_size(self, height: int, width: int) -> None:
        """Raise CalibrationError unless images of this camera have this size."""
        if (height, width) != (self.height, self.width):
            raise CalibrationError(
                f'camera_info is of an image of {self.height} × {self.width}, got one of '
                f"{height} × {width}; remap camera_info to this image's own, or have the driver "
                f'publish one that fits'
            )

    def resized(self, height: int, width: int) -> 'Camera':
        """Return the camera of the same image resized to another size."""
        scale = _scaling(width / self.width, height / self.height)
        matrix = scale @ self.matrix
        return Camera(height, width, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2],
                      self.distortion, self.fisheye, self.rotation)

    def same_view(self, other: 'Camera') -> bool:
        """Tell whether another camera's image, resized to this one's size, has the same pixels.

        A registered depth image has the colour camera's intrinsics, perhaps at another size.
        """
        return (self.distortion, self.fisheye, self.rotation) == (
            other.distortion, other.fisheye, other.rotation
        ) and self.same_matrix(other)

    def same_matrix(self, other: 'Camera') -> bool:
        """Tell whether the pixels would be the same if neither lens had distortion."""
        theirs = other.resized(self.height, self.width).matrix
        return bool(np.abs(self.matrix - theirs).max() < 1.0)

    @property
    def matrix(self) -> Doubles:
        """(3, 3) camera matrix."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def rays(self) -> Floats:
        """(H, W, 3) float32: the direction of each pixel, z = 1; read-only.

        NaN where the lens model has no inverse: far outside of the calibrated region its
        polynomials turn back, so that two directions would have the same pixel.
        """
        return _rays(self)

    def project(self, points: NDArray[Any], margin_px: float = 0.0) -> Floats:
        """Project points to pixels.

        Args:
            points: (..., 3) in the optical frame, metres.
            margin_px: points are also found this far outside of the image; only a few pixels,
                because beyond them the lens's polynomials may turn back.

        Returns:
            (..., 2) float32: column and row; NaN for points outside of the image.
        """
        flat = np.asarray(points).reshape(-1, 3)
        if self.rotation != Camera.rotation:
            flat = flat @ np.reshape(self.rotation, (3, 3))  # into the frame before R
        with np.errstate(divide='ignore', invalid='ignore'):
            x, y = flat[:, 0] / flat[:, 2], flat[:, 1] / flat[:, 2]
            # Outside of the region to which they were fitted, polynomials turn back, and would
            # project points from far aside into the image.
            reach = _reach(self) * (1 + 4 * margin_px / max(self.height, self.width)) ** 2
            ahead = np.flatnonzero((flat[:, 2] > 0) & (x * x + y * y < reach))
        pixels = np.full((len(flat), 2), np.nan, np.float32)
        # Test the values as returned: if rounded later, one on the border could be outside.
        found = self._distort(np.stack([x[ahead], y[ahead]], axis=1)).astype(np.float32)
        column, row = found.T
        border = 0.5 + margin_px
        inside = (
            (column > -border) & (column < self.width - 1 + border)
            & (row > -border) & (row < self.height - 1 + border)
        )
        pixels[ahead[inside]] = found[inside]
        return pixels.reshape(*np.shape(points)[:-1], 2)

    def _distort(self, xy: NDArray[Any]) -> NDArray[Any]:
        """Project (N, 2) rays, z = 1, to pixels.

        OpenCV's models at a tenth of its cost: projectPoints also computes derivatives.
        """
        x, y = xy.T
        square = x * x + y * y
        if self.fisheye and self.distortion:
            radius = np.sqrt(square)
            theta = np.arctan(radius)
            bend = _polynomial(theta * theta, self.distortion)
            bend *= np.divide(theta, radius, out=np.ones_like(theta), where=radius > 1e-8)
            x, y = x * bend, y * bend
        elif self.distortion:
            k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, 0.0, 0.0, 0.0, 0.0)[:8]
            bend = _polynomial(square, (k1, k2, k3)) / _polynomial(square, (k4, k5, k6))
            across = 2 * x * y
            x, y = (
                x * bend + p1 * across + p2 * (square + 2 * x * x),
                y * bend + p2 * across + p1 * (square + 2 * y * y),
            )
        return np.stack([x * self.fx + self.cx, y * self.fy + self.cy], axis=1)


def _polynomial(x: NDArray[Any], coefficients: Sequence[float]) -> NDArray[Any]:
    """Return 1 + a x + b x² + …, in x's dtype."""
    total: NDArray[Any] = np.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * x
    return total + 1


@lru_cache(maxsize=8)
def _rays(camera: Camera) -> Floats:
    """Undistort every pixel, once per camera: it takes most of a second."""
    v, u = np.mgrid[: camera.height, : camera.width]
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    rotation = np.reshape(camera.rotation, (3, 3))
    if not camera.distortion:
        xy = (pixels - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    elif camera.fisheye:
        xy = cv2.fisheye.undistortPoints(pixels, camera.matrix, np.array(camera.distortion))
    else:
        # The default of five iterations is off by pixels in the corners of wide lenses. OpenCV 5
        # has only one of the two functions.
        undistort: Any = getattr(cv2, 'undistortPointsIter', cv2.undistortPoints)
        criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 50, 1e-6)
        xy = undistort(
            pixels, camera.matrix, np.array(camera.distortion), R=None, P=None, criteria=criteria
        )
    rays = np.concatenate([xy[:, 0], np.ones((len(xy), 1))], axis=1)
    back = camera._distort(rays[:, :2])
    rays[~(np.abs(back - pixels[:, 0]).max(axis=1) < _ROUND_TRIP_PX)] = np.nan
    rays = rays @ rotation.T
    rays /= rays[:, 2:]
    image: Floats = rays.reshape(camera.height, camera.width, 3).astype(np.float32)
    image.flags.writeable = False
    return image


@lru_cache(maxsize=8)
def _reach(camera: Camera) -> float:
    """Return the square of the largest tangent of an angle to the optical axis with a pixel."""
    if not camera.distortion:
        return math.inf
    rays = camera.rays.reshape(-1, 3) @ np.reshape(camera.rotation, (3, 3))
    tangents = np.square(rays[:, :2] / rays[:, 2:]).sum(axis=1)
    return 1.02 * float(np.nanmax(tangents))  # up to the edge of the outermost pixels


def image_size(info: CameraInfoFields) -> tuple[int, int]:
    """Return the height and width of the image that a camera_info belongs to.

    Raises:
        CalibrationError: it has no size, or one above MAX_PIXELS.
    """
    height, width = info.roi.height or info.height, info.roi.width or info.width
    height, width = height // max(1, info.binning_y), width // max(1, info.binning_x)
    if height < 1 or width < 1:
        raise CalibrationError(
            f'camera_info: size {info.height} × {info.width}, expected that of the image; correct '
            f'the camera driver'
        )
    if height * width > MAX_PIXELS:
        raise CalibrationError(
            f'camera_info: size {height} × {width}, expected at most {MAX_PIXELS / 1e6:g} '
            f'megapixels; have the driver publish smaller images'
        )
    return int(height), int(width)


def named_rectified(topic: str) -> bool:
    """Tell whether the name of an image topic says that the images are rectified."""
    return bool(_RECTIFIED.search(topic))


def oddity(info: CameraInfoFields, camera: Camera) -> str:
    """Return what looks wrong in a camera_info that is usable nevertheless; empty if nothing does.

    Drivers that scale or bin images without changing the matrix make all positions wrong. A region
    of interest may be anywhere; one that the message does not mention cannot be told apart.
    """
    shares = camera.cx / camera.width, camera.cy / camera.height
    if info.roi.height or info.roi.width or all(_MIDDLE[0] < x < _MIDDLE[1] for x in shares):
        return ''
    return (
        f'the principal point is ({camera.cx:.0f}, {camera.cy:.0f}) in an image of '
        f'{camera.height} × {camera.width}, expected it near the middle: was the camera '
        f'calibrated at another size, or does the driver bin or crop? All distances may be '
        f'wrong; calibrate at this size, or correct the driver'
    )


def scaled_matrices(info: CameraInfoFields, height: int, width: int) -> tuple[Doubles, Doubles]:
    """Return K (3, 3) and P (3, 4) of a camera_info for its image resized to another size.

    Pixels are scaled about the image's corner, not about the first pixel's centre: u + ½ is
    scaled, as in INTER_NEAREST_EXACT and every resizing with half-pixel centres. Binning does the
    same.

    Raises:
        CalibrationError: the camera is not calibrated, or the matrices make no sense.
    """
    k = np.reshape(np.asarray(info.k, np.float64), (3, 3))
    p = np.reshape(np.asarray(info.p, np.float64), (3, 4))
    if not k.any() and not p.any():
        raise CalibrationError(
            'camera_info: K and P are zero, so the camera is not calibrated; calibrate it '
            '(camera_calibration) and have the driver load the result'
        )
    if not p.any():
        p = np.hstack([k, np.zeros((3, 1))])
    for name, matrix in (('K', k), ('P', p)):
        if not matrix.any():  # K of a camera_info that has only P
            continue
        focal_lengths = matrix[0, 0], matrix[1, 1]
        if not np.isfinite(matrix).all() or min(focal_lengths) <= 0 or matrix[2, 2] != 1:
            raise CalibrationError(
                f'camera_info: {name} is {matrix.tolist()}, expected positive focal lengths and 1 '
                f'at the lower right; calibrate the camera again'
            )
        if max(focal_lengths) > _MAX_FOCAL_RATIO * min(focal_lengths):
            raise CalibrationError(
                f'camera_info: {name} has fx {focal_lengths[0]} and fy {focal_lengths[1]}, '
                f'expected nearly equal ones; calibrate the camera again'
            )
    image_height, image_width = image_size(info)
    window = np.array([[1, 0, -info.roi.x_offset], [0, 1, -info.roi.y_offset], [0, 0, 1]])
    binning = _scaling(1 / max(1, info.binning_x), 1 / max(1, info.binning_y))
    whole = _scaling(width / image_width, height / image_height) @ binning @ window
    return whole @ k, whole @ p


def _scaling(x: float, y: float) -> Doubles:
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])
