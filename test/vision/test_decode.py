"""From a network's output to masks."""

import numpy as np
from numpy.typing import NDArray
import pytest

from mnv2_perception.vision.decode import (
    class_probabilities,
    ids_and_confidence,
    known_ids,
    resize_ids,
)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(axis=0))
    return shifted / shifted.sum(axis=0)


def reference(
    scores: NDArray[np.float32], output: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Decode as a textbook does."""
    scores64 = scores.astype(np.float64)
    if output == 'sigmoid':
        scores64 = np.stack([1.0 - scores64[0], scores64[0]])
    probabilities = softmax(scores64) if output == 'logits' else scores64
    return probabilities.argmax(axis=0), probabilities.max(axis=0) * 255.0


@pytest.mark.parametrize('output', ['logits', 'probabilities', 'sigmoid'])
@pytest.mark.parametrize('classes', [2, 11, 255])
def test_decoding_equals_the_textbook(output: str, classes: int) -> None:
    rng = np.random.default_rng(classes)
    logits = rng.normal(0.0, 4.0, (classes, 9, 13)).astype(np.float32)
    scores = logits if output == 'logits' else softmax(logits).astype(np.float32)
    if output == 'sigmoid':
        scores = scores[:1]
    ids, confidence = ids_and_confidence(scores, output)
    expected_ids, expected_confidence = reference(scores, output)
    assert ids.dtype == confidence.dtype == np.uint8
    assert np.array_equal(ids, expected_ids)
    assert np.abs(confidence - expected_confidence).max() <= 0.51  # rounded, not cut off


def test_equal_scores_give_the_first_class() -> None:
    ids, confidence = ids_and_confidence(np.zeros((4, 1, 1), np.float32), 'logits')
    assert (ids.item(), confidence.item()) == (0, 64)


def test_huge_logits_do_not_overflow() -> None:
    scores = np.array([-3e4, 3e4, 0.0], np.float32).reshape(3, 1, 1)
    ids, confidence = ids_and_confidence(scores, 'logits')
    assert (ids.item(), confidence.item()) == (1, 255)


def test_a_single_class_is_certain() -> None:
    ids, confidence = ids_and_confidence(np.full((1, 1, 1), -5.0, np.float32), 'logits')
    assert (ids.item(), confidence.item()) == (0, 255)


@pytest.mark.parametrize(
    ('probability', 'class_id', 'confidence'), [(0.0, 0, 255), (0.49, 0, 130), (0.5, 1, 128),
                                                (0.51, 1, 130), (1.0, 1, 255)]
)
def test_sigmoid_gives_class_one_from_a_half_on(
    probability: float, class_id: int, confidence: int
) -> None:
    decoded = ids_and_confidence(np.full((1, 1, 1), probability, np.float32), 'sigmoid')
    assert [array.item() for array in decoded] == [class_id, confidence]


def test_scores_are_only_read() -> None:
    scores = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    kept = scores.copy()
    ids_and_confidence(scores, 'logits')
    class_probabilities(scores[:, 0, 0], 'logits')
    assert np.array_equal(scores, kept)


@pytest.mark.parametrize('dtype', [np.int64, np.uint64, np.int8, np.bool_])
def test_ids_of_no_class_are_unlabelled_without_confidence(dtype: type) -> None:
    indices = np.array([[0, 1, -1, 120]]).astype(dtype)
    ids, confidence = known_ids(indices, 2, False, 255)
    expected = [0, 1, 1, 1] if dtype == np.bool_ else [0, 1, 255, 255]
    assert ids.tolist() == [expected]
    assert confidence.tolist() == [[0 if class_id == 255 else 255 for class_id in expected]]
    assert ids.dtype == confidence.dtype == np.uint8


def test_softmax_of_huge_logits_is_right_and_float32() -> None:
    logits = np.array([3e4, 3e4 + np.log(3), -3e4], np.float32)
    probabilities = class_probabilities(logits, 'logits')
    np.testing.assert_allclose(probabilities, softmax(logits.astype(np.float64)), rtol=1e-6)
    assert probabilities.dtype == np.float32


def test_one_sigmoid_channel_is_two_classes() -> None:
    assert class_probabilities(np.float32([0.25]), 'sigmoid').tolist() == [0.75, 0.25]


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_sigmoid_that_is_no_number_has_no_confidence(bad: float) -> None:
    _, confidence = ids_and_confidence(np.float32([[[0.5, bad]]]), 'sigmoid')
    assert confidence.tolist() == [[128, 0]]
    assert np.isnan(class_probabilities(np.float32([bad]), 'sigmoid')).all()


@pytest.mark.parametrize(('size', 'resized'), [((3, 5), (9, 15)), ((9, 15), (3, 5))])
def test_resized_ids_come_from_the_pixel_under_their_centre(
    size: tuple[int, int], resized: tuple[int, int]
) -> None:
    ids = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for old, new in zip(size, resized, strict=True)
    )
    assert np.array_equal(resize_ids(ids, *resized), ids[np.ix_(rows, columns)])


def test_resizing_invents_no_ids() -> None:
    ids = np.array([[0, 200]], np.uint8)
    assert set(np.unique(resize_ids(ids, 37, 41))) == {0, 200}
