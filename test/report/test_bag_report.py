"""`mnv2 bag report`: what is on the page, that nothing a bag holds can run, its size."""

import base64
import json
from pathlib import Path
import re
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest
from report_runs import (
    CLASSES,
    COMPRESSED,
    FRAMES,
    LABEL,
    packed,
    PHOTO,
    photo,
    stamp_of,
    truth,
    write_results,
)

from mnv2_perception.bags.messages import (
    classification_cdr,
    detections_cdr,
    header,
    mask_cdr,
)
from mnv2_perception.bags.results import CLASSIFICATION, DETECTIONS, IMAGE
from mnv2_perception.bags.write import BagWriter, compressed_image_cdr
from mnv2_perception.cli.main import main
from mnv2_perception.report import report as making
from mnv2_perception.report.figures import spread
from mnv2_perception.report.page import digest
from mnv2_perception.report.pictures import grid_picture
from mnv2_perception.scenes.bag import draw_bag
from mnv2_perception.vision.costmap import Grid
from mnv2_perception.vision.png import indexed_png

HOSTILE = '<script>window.stolen = 1</script>'


def report(out: Path, *args: object) -> str:
    assert main(['bag', 'report', *map(str, args), '--out', str(out), '--force']) == 0
    return out.read_text(encoding='utf-8')


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def words(page: str) -> str:
    """Return what a reader sees of the page without its script."""
    body = re.sub(r'<(script|style)\b.*?</\1>', '', page, flags=re.S)
    return re.sub(r'\s+', ' ', re.sub(r'<[^>]+>', ' ', body))


def picture(uri: str) -> NDArray[np.uint8]:
    data = np.frombuffer(base64.b64decode(uri.partition(',')[2]), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_UNCHANGED))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_results(tmp_path / 'run', photos=True, labels=True, wrong={5: 12})


def test_a_page_has_the_figures_of_a_run(run: Path, tmp_path: Path) -> None:
    page = report(tmp_path / 'r.html', run)
    data, said = data_of(page), words(page)
    assert f'{FRAMES} frames' in said and 'drive' in said
    assert len(data['pictures']) == len(data['times']) == FRAMES
    share = data['runs'][0]['share']
    assert share['car'][0] == pytest.approx((truth(0) == 1).mean(), abs=1e-3)
    assert sum(share[name][3] for name in CLASSES) == pytest.approx(1.0, abs=1e-3)
    assert data['runs'][0]['confidence'][2] == pytest.approx(240 / 255, abs=1e-3)
    assert data['runs'][0]['first'][0] == ['grass', pytest.approx(0.8, abs=1e-3)]
    assert data['pictures'][1]['runs'][0]['boxes'] == [[
        pytest.approx(4 / 64, abs=1e-3), pytest.approx(20 / 48, abs=1e-3),
        pytest.approx(16 / 64, abs=1e-3), pytest.approx(32 / 48, abs=1e-3), 0.9, 'car',
    ]]
    for text in ('own.onnx', 'onnx_runtime', 'Ada &amp; Co', 'not for commercial use',
                 'camera 1.5 m above flat ground'):
        assert text in said


def test_the_frame_with_wrong_rows_is_the_worst(run: Path, tmp_path: Path) -> None:
    page = report(tmp_path / 'r.html', run)
    data, said = data_of(page), words(page)
    assert data['worst'][0]['at'] == 5
    assert data['worst'][0]['value'] == data['runs'][0]['right'][5] == pytest.approx(0.75, abs=0.1)
    assert data['runs'][0]['right'][4] == 1.0
    assert 'Confusion matrix' in said and f'{FRAMES} labelled frames, compared by name' in said
    wrong = picture(data['pictures'][5]['runs'][0]['wrong'])
    assert (wrong[-1, :, 3] == 255).all() and (wrong[0, :, 3] == 0).all()


def test_a_mask_is_shown_in_the_colours_that_the_run_tells(run: Path, tmp_path: Path) -> None:
    data = data_of(report(tmp_path / 'r.html', run))
    assert {each['name']: each['colour'] for each in data['classes']}['road'] == '#804080'
    mask = picture(data['pictures'][0]['runs'][0]['mask'])
    assert mask[-1, 0].tolist() == [128, 64, 128, 255]  # BGR of road
    shown = picture(data['pictures'][0]['photo'])
    assert shown.shape == (48, 64, 3)


def test_two_runs_stand_side_by_side(run: Path, tmp_path: Path) -> None:
    other = write_results(tmp_path / 'other', wrong={7: 24})
    page = report(tmp_path / 'r.html', run, other)
    data, said = data_of(page), words(page)
    assert len(data['runs']) == 2 and all(len(each['runs']) == 2 for each in data['pictures'])
    assert data['agreed'][0] == 1.0 and data['agreed'][7] == pytest.approx(0.5, abs=0.1)
    assert data['worst'][0]['at'] == 7
    assert 'B judged by A' in said and 'mean IoU between the two runs' in said


def test_where_two_runs_differ_is_shown_where_nobody_tells_what_is_right(tmp_path: Path) -> None:
    base = write_results(tmp_path / 'base', photos=True)
    new = write_results(tmp_path / 'new', wrong={7: 24})
    data = data_of(report(tmp_path / 'r.html', base, new))
    assert data['pictures'][7]['runs'][0]['wrong'] is None
    differs = picture(data['pictures'][7]['runs'][1]['wrong'])
    assert (differs[-1, :, 3] == 255).all() and (differs[0, :, 3] == 0).all()


def test_a_live_recording_tells_latency_counts_and_what_was_left_out(tmp_path: Path) -> None:
    live = write_results(tmp_path / 'live', photos=True, live=True, left_out=(3, 8))
    page = report(tmp_path / 'r.html', live)
    data, said = data_of(page), words(page)
    latency, = data['runs'][0]['latency']
    assert latency['node'] == 'segmentation_node' and latency['p50'][0] == 20.0
    assert data['runs'][0]['missing'] == [3, 8]
    assert 'Camera frames without a result 2' in said and 'are intact' in said
    # Of the shipped model only the name is known.
    assert 'a live recording does not say which file was used' in said
    assert 'DHCN_dataset' in said and 'CC BY 4.0' in said


def test_images_come_from_the_recording_where_the_results_have_none(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results')
    original = tmp_path / 'drive'
    with BagWriter(original) as bag:
        bag.add_topic(PHOTO, COMPRESSED)
        for number in range(FRAMES + 2):
            jpeg = packed(photo(number), '.jpg') if number != FRAMES else b'no picture'
            bag.write(PHOTO, stamp_of(number), compressed_image_cdr(
                jpeg, stamp_of(number), 'camera', 'jpeg'))
    page = report(tmp_path / 'r.html', results, '--bag', original)
    assert len(data_of(page)['pictures']) == FRAMES + 2
    assert 'Camera frames without a result 2' in words(page)
    assert 'no picture' not in words(page) and re.search('1 of them compressed image', words(page))


def test_images_come_from_the_folder_of_pictures_that_was_run(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    (tmp_path / 'pictures').mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f'pictures/{number}.png'), photo(number))
    results = tmp_path / 'r.mcap'
    assert main(['bag', 'run', str(tmp_path / 'pictures'), '--out', str(results), '--fps', '5',
                 '--engine', 'onnx_runtime']) == 0
    data = data_of(report(tmp_path / 'r.html', results, '--bag', tmp_path / 'pictures'))
    assert data['times'] == [0.0, 0.2, 0.4]
    assert all(each['photo'] for each in data['pictures'])


def test_what_is_missing_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write_results(tmp_path / 'results')
    page = report(tmp_path / 'r.html', results)
    for said in (words(page), capsys.readouterr().err):
        assert 'no camera images' in said and '--bag' in said and '--copy' in said
    data = data_of(page)
    assert data['pictures'][0]['photo'] is None and data['pictures'][0]['runs'][0]['mask']
    assert 'frames without a result cannot be found' in words(page)


def test_labels_that_nobody_names_are_compared_only_when_asked_for(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results', photos=True)
    original = tmp_path / 'labels'
    with BagWriter(original) as bag:
        for topic in (PHOTO, LABEL):
            bag.add_topic(topic, COMPRESSED)
        for number in range(FRAMES):
            for topic, image, suffix in (
                (PHOTO, photo(number), '.jpg'), (LABEL, truth(number), '.png')
            ):
                bag.write(topic, stamp_of(number), compressed_image_cdr(
                    packed(image, suffix), stamp_of(number), 'camera', suffix[1:]))
    page = report(tmp_path / 'r.html', results, '--bag', original)
    assert 'Confusion matrix' not in words(page) and f'--labels {LABEL}' in words(page)
    page = report(tmp_path / 'r.html', results, '--bag', original, '--labels', LABEL)
    assert 'Confusion matrix' in words(page) and 'compared by number' in words(page)


def test_the_page_fetches_nothing(run: Path, tmp_path: Path) -> None:
    page = report(tmp_path / 'r.html', run)
    markup = re.sub(r'(data:[^"]*")', '"', page)
    assert re.findall(r'(?:src|href)="(?!data:|#|")[^"]*', markup) == []
    assert not re.search(r'@import|url\(|<link(?! rel="icon")|fetch\(|XMLHttp|WebSocket', markup)
    addresses = set(re.findall(r'https?://[\w./]+', markup))
    assert addresses == {'http://www.w3.org/2000/svg'}  # a name, of SVG's elements
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy and policy[1].startswith("default-src 'none'; img-src data:;")
    script, = re.findall(r'<script>(.*?)</script>', page, re.S)
    assert f"script-src '{digest(script)}'" in policy[1]


def test_no_text_of_a_bag_becomes_markup(tmp_path: Path) -> None:
    results = write_results(
        tmp_path / f'results {HOSTILE}'.replace('/', ''),
        classes=(HOSTILE, '</script>"\'&', 'sky'), source=HOSTILE, box=HOSTILE,
        photos=True, labels=True,
    )
    page = report(tmp_path / 'r.html', results)
    assert HOSTILE not in page and 'window.stolen' in page
    assert page.count('<script') == 2 and page.count('</script>') == 2
    assert data_of(page)['classes'][0]['name'] == HOSTILE


def test_braces_in_a_name_are_no_part_of_the_page(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results', source='{{script}}{{data}}')
    assert '<title>{{script}}{{data}} ·' in report(tmp_path / 'r.html', results)


def test_few_pictures_stand_for_many_frames_and_that_is_told(run: Path, tmp_path: Path) -> None:
    page = report(tmp_path / 'r.html', run, '--frames', 4)
    data = data_of(page)
    assert len(data['times']) == FRAMES and len(data['pictures']) < FRAMES
    assert {0, 5, FRAMES - 1} <= {each['at'] for each in data['pictures']}
    assert f'Pictures: {len(data["pictures"])} of {FRAMES} frames' in words(page)


def test_the_page_stays_below_a_size(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = len(report(tmp_path / 'r.html', run))
    monkeypatch.setattr(making, 'MOST_BYTES', whole // 4)
    page = report(tmp_path / 'r.html', run)
    assert len(page) < whole and 'Pictures: ' in words(page)
    worst = {each['at'] for each in data_of(page)['worst']}
    assert worst <= {each['at'] for each in data_of(page)['pictures']}


def test_large_images_are_made_smaller(tmp_path: Path) -> None:
    results = tmp_path / 'results'
    with BagWriter(results) as bag:
        bag.add_topic('/segmentation/mask', IMAGE)
        bag.write('/segmentation/mask', 1, mask_cdr(
            np.zeros((1000, 2000), np.uint8), header(10**9, 'camera')))
    frame, = data_of(report(tmp_path / 'r.html', results))['pictures']
    assert (frame['height'], frame['width']) == (320, 640)


def test_frames_without_stamps_are_counted(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results', photos=True, zero=True)
    page = report(tmp_path / 'r.html', results)
    assert data_of(page)['times'] == list(range(FRAMES))
    assert 'no usable stamps' in words(page)


def test_what_is_whole_of_a_damaged_file_is_shown(tmp_path: Path) -> None:
    pytest.importorskip('onnxruntime', reason='no onnxruntime: run make setup')
    draw_bag(tmp_path / 'street', duration_s=0.4, height=96, width=128)
    whole = tmp_path / 'whole.mcap'
    assert main(['bag', 'run', str(tmp_path / 'street'), '--out', str(whole), '--engine',
                 'onnx_runtime', '--copy', '/camera/image_raw']) == 0
    data = whole.read_bytes()
    cut = tmp_path / 'cut.mcap'
    cut.write_bytes(data[: len(data) - 40])
    assert len(data_of(report(tmp_path / 'r.html', cut))['pictures']) == 6
    bad = tmp_path / 'bad'
    with BagWriter(bad) as bag:
        bag.add_topic('/segmentation/mask', IMAGE)
        for number in range(3):
            cdr = mask_cdr(np.zeros((4, 6), np.uint8), header(stamp_of(number), 'camera'))
            bag.write('/segmentation/mask', stamp_of(number), cdr[:-5] if number == 1 else cdr)
    assert '1 × ' in words(report(tmp_path / 'r.html', bad))


@pytest.mark.parametrize(('args', 'reason'), [
    (['nothing'], 'has no masks, boxes, classes or grids'),
    (['absent'], 'absent'),
    (['run', '--bag', 'absent'], 'no such file or folder'),
    (['run', '--topic', '/camera/image'], '--topic is the image topic of --bag'),
    (['run', '--bag', 'elsewhere'], 'no image with a stamp'),
    (['run', 'later'], 'no frame with the same stamp'),
    (['run', '--labels', '/nowhere'], 'neither run has this topic'),
])
def test_what_cannot_be_shown_is_refused_with_the_reason(
    args: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / 'run')
    jpeg = compressed_image_cdr(packed(photo(0), '.jpg'), 5, 'camera', 'jpeg')
    mask = mask_cdr(np.zeros((4, 6), np.uint8), header(9, 'camera'))
    for name, topic, type_name, cdr in (
        ('nothing', '/other', COMPRESSED, jpeg), ('elsewhere', '/camera/image', COMPRESSED, jpeg),
        ('later', '/segmentation/mask', IMAGE, mask),
    ):
        with BagWriter(tmp_path / name) as bag:
            bag.add_topic(topic, type_name)
            bag.write(topic, 5, cdr)
    assert main(['bag', 'report', *args, '--out', 'r.html']) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: ') and reason in error
    assert not (tmp_path / 'r.html').exists()


def test_a_page_is_not_replaced_unasked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / 'r.html'
    out.write_text('mine')
    assert main(['bag', 'report', str(run), '--out', str(out)]) == 1
    assert main(['bag', 'report', str(run), '--out', str(run), '--force']) == 1
    assert out.read_text() == 'mine'


def test_scores_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    results = tmp_path / 'results'
    of = header(10**9, 'camera')
    corners = np.array([[0, 0, 4, 4], [0, 0, np.inf, 4], [1, 1, 5, 5]], np.float32)
    scores = np.array([np.nan, 0.9, 0.5], np.float32)
    with BagWriter(results) as bag:
        for topic, type_name, cdr in (
            ('/segmentation/mask', IMAGE, mask_cdr(np.zeros((10, 10), np.uint8), of)),
            ('/detections', DETECTIONS, detections_cdr(
                corners, scores, np.zeros(3, int), ['car'], of)),
            ('/classification', CLASSIFICATION, classification_cdr(
                np.zeros(1, int), scores[:1], ['car'], of)),
        ):
            bag.add_topic(topic, type_name)
            bag.write(topic, 1, cdr)
    data = data_of(report(tmp_path / 'r.html', results))
    boxes = data['pictures'][0]['runs'][0]['boxes']
    assert [box[4:] for box in boxes] == [[0.5, 'car']]
    assert data['runs'][0]['first'] == [None]


def test_results_of_a_namespace_are_found(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results', space='/front', photos=True)
    page = report(tmp_path / 'r.html', results)
    assert data_of(page)['pictures'][0]['runs'][0]['grid'] and '/front/grid' in words(page)


def test_a_video_has_every_frame(run: Path, tmp_path: Path) -> None:
    out = tmp_path / 'v.mp4'
    report(tmp_path / 'r.html', run, '--frames', 3, '--video', out)
    video = cv2.VideoCapture(str(out))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == FRAMES
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0, abs=0.1)
    assert video.read()[0]


def test_where_opencv_cannot_encode_it_is_said(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mnv2_perception.report import video

    monkeypatch.setattr(video, 'FOURCC', 'zzzz')
    args = ['--out', str(tmp_path / 'r.html'), '--video', str(tmp_path / 'v.mp4')]
    assert main(['bag', 'report', str(run), *args]) == 1
    assert 'cannot write' in capsys.readouterr().err and not (tmp_path / 'v.mp4').exists()


def test_a_palette_png_is_read_by_others() -> None:
    ids = np.arange(12, dtype=np.uint8).reshape(3, 4)
    data = np.frombuffer(indexed_png(ids, [(255, 0, 0), (0, 255, 0)], True), np.uint8)
    shown = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    assert shown[0, 0].tolist() == [0, 0, 255, 255] and shown[0, 1].tolist() == [0, 255, 0, 255]
    assert (shown[1:, :, 3] == 0).all()


def test_a_grid_is_shown_as_the_robot_sees_it() -> None:
    cells = np.full((20, 30), -1, np.int8)  # rows along y, columns along x
    cells[15, 25] = 100  # 5 to the left, 15 ahead
    grid = Grid(cells, -10.0, -10.0, 1.0)
    shown = grid_picture(grid, True)
    assert shown
    pixels = picture(shown['picture'])
    red = np.argwhere(pixels[..., 2] > pixels[..., 0] + 100)
    assert red.tolist() == [[4, 4]]
    assert (shown['x'], shown['y'], shown['ahead']) == (10.0, 20.0, True)
    assert shown['rows'] == 21  # a metre behind the robot
    other = grid_picture(grid, False)
    assert other
    assert (other['rows'], other['x'], other['y'], other['ahead']) == (30, 10.0, 15.0, False)


def test_a_grid_of_the_world_does_not_tell_where_the_robot_looks(tmp_path: Path) -> None:
    results = write_results(tmp_path / 'results', photos=True, grid_frame='odom')
    data = data_of(report(tmp_path / 'r.html', results))
    assert data['pictures'][0]['runs'][0]['grid']['ahead'] is False


@pytest.mark.parametrize(
    ('count', 'most', 'kept', 'chosen'),
    [(11, 3, [], [0, 5, 10]), (1, 6, [], [0]), (2, 6, [], [0, 1]), (11, 4, [3], [0, 3, 5, 10])],
)
def test_pictures_are_spread_over_the_run(
    count: int, most: int, kept: list[int], chosen: list[int]
) -> None:
    assert spread(count, most, kept) == chosen
