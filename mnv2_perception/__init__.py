"""Camera perception with the MobileNetV2 family, for ROS 2 robots."""

import os

# Else OpenCV's idle threads, as its wheels have them, spin after each resize for longer than it
# took, on the cores that the network wants by then. It reads this as it is loaded.
os.environ.setdefault('OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER', '0')
