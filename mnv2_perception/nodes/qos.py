"""The quality of service of this package's topics."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# Best effort matches every camera; a reliable subscription hears nothing of most of them. The
# callback only stores the message, so a depth of 5 is no queue: it bridges the moments in which
# Python does something else, and what was passed over is counted, not lost.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Reliable serves RViz, which asks for it, and Nav2's semantic layer, which does not.
RESULT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
