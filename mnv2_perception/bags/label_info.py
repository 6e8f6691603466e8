"""Write vision_msgs/msg/LabelInfo, which names the classes of a bag's labels, without ROS."""

from collections.abc import Sequence

from rosbags.typesys import get_types_from_msg, get_typestore, Stores

LABEL_INFO = 'vision_msgs/msg/LabelInfo'
# For `BagWriter.add_topic`: vision_msgs is not among the common packages.
LABEL_INFO_DEFINITION = f"""\
std_msgs/Header header
vision_msgs/VisionClass[] class_map
float32 threshold
{'=' * 80}
MSG: vision_msgs/VisionClass
uint16 class_id
string class_name
{'=' * 80}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
{'=' * 80}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""


def label_info_cdr(names: Sequence[str], stamp_ns: int, frame_id: str) -> bytes:
    """Serialise a LabelInfo.

    Args:
        names: Of the classes; the index is the class id.
        stamp_ns: Stamp of the header, ns.
        frame_id: Frame of the header.

    Returns:
        The serialised message, encapsulation header included.
    """
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(LABEL_INFO_DEFINITION, LABEL_INFO))
    types = store.types
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    stamp = types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds)
    message = types[LABEL_INFO](
        header=types['std_msgs/msg/Header'](stamp=stamp, frame_id=frame_id),
        class_map=[
            types['vision_msgs/msg/VisionClass'](class_id=index, class_name=name)
            for index, name in enumerate(names)
        ],
        threshold=0.0,
    )
    return bytes(store.serialize_cdr(message, LABEL_INFO))
