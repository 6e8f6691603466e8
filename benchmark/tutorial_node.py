"""The node that tutorials show, unchanged: benchmark/node.py compares the package's node with it.

It has a queue of ten images, processed in the callback. The image is resized and scaled to float32
in NumPy, ONNX Runtime runs the network alone, softmax and argmax are in NumPy, and the mask is
enlarged again. It publishes the same topic as segmentation_node.
"""

from contextlib import suppress
import sys

import cv2
import numpy as np
import onnxruntime
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)


class TutorialNode(Node):
    """Subscribes to `image`, publishes `segmentation/mask`."""

    def __init__(self) -> None:
        super().__init__('tutorial_node')
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.declare_parameter('threads', 0).value
        self.session = onnxruntime.InferenceSession(
            self.declare_parameter('model', '').value, options, ['CPUExecutionProvider']
        )
        self.input = self.session.get_inputs()[0]
        self.publisher = self.create_publisher(Image, 'segmentation/mask', 10)
        self.create_subscription(Image, 'image', self.on_image, 10)

    def on_image(self, msg: Image) -> None:
        image = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.width, 3)
        height, width = self.input.shape[2:]
        resized = cv2.resize(image, (width, height))
        tensor = (resized.astype(np.float32) - MEAN) / STD
        tensor = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])  # (1, 3, H, W)
        logits = self.session.run(None, {self.input.name: tensor})[0][0]  # (classes, h, w)
        exponents = np.exp(logits - logits.max(axis=0))
        probabilities = exponents / exponents.sum(axis=0)
        ids = probabilities.argmax(axis=0).astype(np.uint8)
        mask = cv2.resize(ids, (msg.width, msg.height), interpolation=cv2.INTER_NEAREST)
        self.publisher.publish(Image(
            header=msg.header, height=msg.height, width=msg.width, encoding='mono8',
            step=msg.width, data=mask.tobytes(),
        ))


def main() -> None:
    """Run the node until it is told to stop."""
    rclpy.init(args=sys.argv)
    node = TutorialNode()
    with suppress(KeyboardInterrupt):
        rclpy.spin(node)


if __name__ == '__main__':
    main()
