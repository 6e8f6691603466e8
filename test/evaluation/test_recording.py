"""What a recorded run was worth: counts that add up, latency, accuracy."""

from pathlib import Path

import numpy as np
import pytest

from mnv2_perception.evaluation.recording import (
    account,
    accuracy,
    latencies_ms,
    paired,
    percentile,
)


@pytest.mark.parametrize(
    ('received', 'published', 'masks_out'), [(90, 60, 60), (88, 60, 57), (100, 70, 70)]
)
def test_every_frame_is_accounted_for(received: int, published: int, masks_out: int) -> None:
    passed_over = received - published - 2
    node = {
        'received': str(received), 'published': str(published), 'rejected': '2',
        'passed_over': str(passed_over),
    }
    counts = account(100, masks_out, node)
    assert counts['frames_in'] == counts['masks_out'] + counts['dropped']
    assert counts['lost'] == (100 - received) + (published - masks_out)
    assert counts['dropped'] == counts['passed_over'] + counts['rejected'] + counts['lost']
    assert (counts['passed_over'], counts['rejected']) == (passed_over, 2)


def test_latency_is_from_a_frames_publication_to_its_masks_arrival(tmp_path: Path) -> None:
    sent, received = tmp_path / 'sent.csv', tmp_path / 'received.csv'
    sent.write_text(
        'topic,stamp_ns,published_ns\n/image,10,1000000\n/image,20,2000000\n/other,30,0\n'
        '/image,40,4000000\n/tf,,5\n'
    )
    received.write_text(
        'topic,stamp_ns,received_ns\n/mask,10,3500000\n/confidence,20,9\n/mask,40,4250000\n'
        '/mask,30,7\n/mask,99,8\n'
    )
    assert latencies_ms(sent, received, '/image', '/mask') == [2.5, 0.25]


def test_percentiles_of_nothing_are_none() -> None:
    assert percentile([], 0.5) is None
    assert percentile([1.0, 2.0, 4.0], 0.5) == 2.0


def test_masks_are_compared_with_the_labels_of_their_stamps() -> None:
    zeros, ones = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    masks = [(1, zeros), (2, ones), (3, ones), (4, np.zeros((3, 3), np.uint8))]
    labels = [(1, zeros), (2, zeros), (4, zeros), (5, ones)]
    matrix = accuracy(labels, masks, 2)
    assert matrix.counts.tolist() == [[4, 4, 0], [0, 0, 0]]


def test_frames_of_equal_stamps_are_paired() -> None:
    frame = np.zeros((2, 2), np.uint8)
    left = [(stamp, frame + stamp) for stamp in (1, 2, 4, 5)]
    right = [(stamp, frame + 10 * stamp) for stamp in (0, 2, 3, 5, 6)]
    found = [(stamp, a[0, 0], b[0, 0]) for stamp, a, b in paired(left, right)]
    assert found == [(2, 2, 20), (5, 5, 50)]
