"""The quality of service of this package's topics."""

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

# Best effort matches every camera's publisher; a reliable subscription gets nothing from most. The
# callback only stores the message, so a depth of 5 adds no latency: it bridges moments in which
# Python is busy elsewhere. Frames that are passed over are counted.
CAMERA_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# Reliable serves RViz, which asks for it, and Nav2's semantic layer, which does not.
RESULT_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED_QOS = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
