"""Read the transforms of a bag."""

from pathlib import Path

from mnv2_perception.bags.messages import stamp_ns
from mnv2_perception.bags.read import BagReader
from mnv2_perception.errors import BagError
from mnv2_perception.vision.transforms import TransformTree

TF, TF_STATIC, TF_MESSAGE = '/tf', '/tf_static', 'tf2_msgs/msg/TFMessage'


def add_transforms(bag: Path, tree: TransformTree) -> None:
    """Add the transforms of a bag's /tf and /tf_static to a tree; skip damaged messages."""
    with BagReader(bag) as reader:
        names = {
            each.name for each in reader.topics
            if each.name in (TF, TF_STATIC) and each.type_name == TF_MESSAGE
        }
        for message in reader.readable(names):
            try:
                told = reader.deserialize(message).transforms
            except BagError:
                continue
            for each in told:
                place, turn = each.transform.translation, each.transform.rotation
                tree.add(
                    each.header.frame_id, each.child_frame_id, stamp_ns(each.header),
                    (place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w),
                    message.topic == TF_STATIC,
                )
