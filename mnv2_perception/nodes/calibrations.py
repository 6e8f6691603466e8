"""Calibrations: find the camera_info that belongs to each image of a camera."""

from collections.abc import Callable
from dataclasses import dataclass
import threading

from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from mnv2_perception.errors import CalibrationError
from mnv2_perception.nodes.messages import stamp_to_ns
from mnv2_perception.nodes.sync import StampedQueue
from mnv2_perception.vision.camera import Camera, oddity

KEPT = 300  # 10 s of a camera: a mask arrives as late as its inference takes
# A camera counts as sending a camera_info with each image if 11 of the latest 15 images had
# theirs: more than from a camera that sends two for three images, and a few may be lost.
OWN, OF = 11, 15


@dataclass(frozen=True)
class Calibration:
    """A camera_info.

    Attributes:
        header: header with its stamp only.
        info: the message; None if it is unusable, because a faulty one may be large.
        camera: the camera that it describes, or why it is unusable.
    """

    header: Header
    info: CameraInfo | None
    camera: Camera | CalibrationError


class Calibrations:
    """The messages of one camera_info topic; thread-safe.

    An image's own camera_info is the one with its stamp. If there is none, the last usable one
    counts; an unusable one never replaces it. The object is false until one has arrived.

    Args:
        name: name of the topic.
        rectified: whether images are rectified, see `Camera.from_info`.
        tell: called with a sentence if a camera_info is unusable or looks wrong.

    Attributes:
        name: name of the topic.
        refusal: why the last camera_info is unusable, empty if it is usable.
        usable: whether a usable one has arrived.
    """

    def __init__(self, name: str, rectified: bool, tell: Callable[[str], object]) -> None:
        self.name = name
        self._rectified = rectified
        self._tell = tell
        self._lock = threading.Lock()
        self._kept: StampedQueue[Calibration] = StampedQueue(KEPT)
        self._last: Calibration | None = None
        self._had_own: dict[int, bool] = {}  # by stamp of the latest images
        self.refusal = self._odd = ''
        self.usable = False

    @property
    def last_info(self) -> CameraInfo | None:
        """The camera_info that counts for images without their own; None if that is unusable."""
        return self._last.info if self._last else None

    def __bool__(self) -> bool:
        return self._last is not None

    def put(self, msg: CameraInfo) -> bool:
        """Store a camera_info; return whether it is the first usable one."""
        header, stamp_ns = Header(stamp=msg.header.stamp), stamp_to_ns(msg.header.stamp)
        odd = refusal = ''
        try:
            camera = Camera.from_info(msg, self._rectified)
            taken = Calibration(header, msg, camera)
            odd = oddity(msg, camera)
        except CalibrationError as exc:
            refusal = f'{self.name}: {str(exc).removeprefix("camera_info: ")}'
            taken = Calibration(header, None, CalibrationError(refusal))
            refusal += '; the last usable one is used for images without their own' * self.usable
        with self._lock:
            was_usable, self.usable = self.usable, self.usable or not refusal
            if not refusal or not was_usable:
                self._last = taken
            before, self.refusal = self.refusal, refusal
            self._kept.put(taken)
            if stamp_ns in self._had_own:
                self._had_own[stamp_ns] = True
        if refusal not in ('', before):
            self._tell(refusal)
        before, self._odd = self._odd, odd
        if odd not in ('', before):
            self._tell(f'{self.name}: {odd}')
        return self.usable and not was_usable

    def of(self, stamp_ns: int, arrived_s: float) -> tuple[Camera, CameraInfo] | None:
        """Return an image's camera and camera_info, None if none has arrived.

        Args:
            stamp_ns: stamp of the image.
            arrived_s: when the image, or the result made from it, arrived (time.monotonic).

        Raises:
            CalibrationError: its own is unusable, or all that have arrived are.
        """
        with self._lock:
            own = self._kept.find(stamp_ns, 0.0, arrived_s)
            self._had_own.pop(stamp_ns, None)
            self._had_own[stamp_ns] = own is not None
            if len(self._had_own) > OF:
                del self._had_own[next(iter(self._had_own))]
            found = own or self._last
        if found is None:
            return None
        if isinstance(found.camera, CalibrationError):
            raise CalibrationError(str(found.camera))
        assert found.info is not None
        return found.camera, found.info

    def awaits(self, stamp_ns: int, arrived_s: float) -> bool:
        """Tell whether an image's own is still to come, as the latest images had theirs."""
        with self._lock:
            expected = sum(self._had_own.values()) >= OWN
            return expected and self._kept.find(stamp_ns, 0.0, arrived_s) is None

    def forget(self, after_ns: int) -> None:
        """Forget calibrations with later stamps; the last usable one still counts."""
        self._kept.forget(after_ns)
