"""classification_node: take camera images, publish what they show."""

import sys
from typing import Any

from numpy import uint8
from numpy.typing import NDArray
from std_msgs.msg import Header
from vision_msgs.msg import Classification

from mnv2_perception.nodes.camera import CameraNode, Outputs
from mnv2_perception.nodes.messages import classification_to_msg
from mnv2_perception.nodes.parameters import ClassificationParameters
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.topics import Publisher
from mnv2_perception.tasks.classifier import Classifier
from mnv2_perception.vision.debounce import Debounce
from mnv2_perception.vision.preprocess import check_region, crop_region, rotate_image


class ClassificationNode(CameraNode[ClassificationParameters, Classifier]):
    """Publishes the most likely classes of a region of the newest image, best first.

    There is one message for each processed image, with its header: at most `top_k` classes of at
    least `min_confidence`, so it may be empty.

    With `debounce_frames` above 1, the first class of the message is the last one that won so many
    processed frames in a row. While another class wins but has not done so often enough, the
    classes that score above the first one are left out: the message has the first class with its
    score in this frame, and the classes that score lower. So scores always fall. The message is
    empty until a class has won often enough, and in frames where the first class is less probable
    than `min_confidence`. `debounce_frames` frames in a row without any class reset it, as do
    activation, switching on and a new model.
    """

    Parameters = ClassificationParameters
    task = Classifier.task
    rank = 1  # segmentation goes first, so that masks keep their rate
    threshold = 'min_confidence'

    def __init__(self, **kwargs: Any) -> None:
        self._classification: Publisher
        self._debounce = Debounce()
        super().__init__('classification_node', **kwargs)

    def open_model(self, values: ClassificationParameters) -> Classifier:
        check_region(values.region)
        with self.opening(values) as (engine, spec):
            return Classifier(engine, spec, len(spec.classes))  # top_k applies after debouncing

    def use_model(self, model: Classifier) -> None:
        super().use_model(model)
        self._debounce = Debounce()

    def acquire(self) -> None:
        self.acquire_model('classification/label_info')
        publisher = self.create_result_publisher
        self._classification = publisher(Classification, 'classification')

    def subscribe(self) -> None:
        self._debounce = Debounce()
        super().subscribe()

    def prepare(self, image: NDArray[uint8]) -> NDArray[uint8] | None:
        values = self.parameters
        return super().prepare(rotate_image(crop_region(image, values.region), values.rotate))

    def publish_result(
        self, image: NDArray[uint8], outputs: Outputs, header: Header
    ) -> bool:
        classifier = self.model
        values = self.parameters
        classifier.min_confidence = values.min_confidence
        self._debounce.frames = values.debounce_frames
        result = classifier.finish(image, outputs)
        first = self._debounce(result.class_ids.tolist())
        shown = slice(first, first + values.top_k)
        self._classification.publish(
            classification_to_msg(
                result.class_ids[shown], result.scores[shown], classifier.spec.classes, header
            )
        )
        return True


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop."""
    return spin(ClassificationNode, args)


if __name__ == '__main__':
    sys.exit(main())
