"""Mutated files of strangers: labels, images, tables, COCO, model specs and bags."""

from collections.abc import Callable
import json
from pathlib import Path
import shutil

import cv2
from identity_network import identity_spec, write_fake
from mutations import check_share, count, damage, damage_text, generators, pick, survivors
import numpy as np
import pytest
import yaml

from mnv2_perception.bags.camera import find_camera, read_ids, read_images
from mnv2_perception.bags.read import BagReader
from mnv2_perception.bags.write import BagWriter
from mnv2_perception.data.coco import read_coco
from mnv2_perception.data.folders import list_classified, read_folder
from mnv2_perception.data.images import read_image, spread_images
from mnv2_perception.engines.base import Opening
from mnv2_perception.engines.fake import FakeEngine
from mnv2_perception.model_spec import METADATA_KEY, ModelSpec
from mnv2_perception.scenes.bag import draw_bag
from mnv2_perception.tasks.segmenter import read_ignore_mask

CLASSES = ('road', 'car', 'sky')
HEIGHT, WIDTH = 24, 32
INPUTS = count(200, 0.3)


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def encoded(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, pixels, list(options))[1])


def turned_jpeg() -> bytes:
    """Return a JPEG whose EXIF orientation says that it lies on its side."""
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0'
    segment = b'Exif\0\0' + tiff
    jpeg = encoded(picture(), '.jpg')
    return jpeg[:2] + b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment + jpeg[2:]


def run(
    target: Path, whole: bytes | list[bytes], readers: list[Callable[[], object]], inputs: int,
    text: bool = False,
) -> int:
    """Damage a file's content again and again; return how often it was refused."""
    refused = 0
    contents = whole if isinstance(whole, list) else [whole]
    for seed, rng in generators(inputs):
        content = pick(rng, contents)
        target.write_bytes(
            damage_text(rng, content.decode()).encode() if text else damage(rng, content)
        )
        for reader in readers:
            refused += not survivors(reader, f'{target.name}, FUZZ_SEED={seed}')
    return refused


def test_damaged_images_and_labels(tmp_path: Path) -> None:
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    ids[:9], ids[9:12] = 2, 1
    images, labels = tmp_path / 'images', tmp_path / 'labels'
    images.mkdir()
    labels.mkdir()
    (images / 'a.png').write_bytes(encoded(picture(), '.png'))
    pngs = [
        encoded(ids, '.png'), encoded(ids.astype(np.uint16), '.png'),
        encoded(ids * 255, '.png', cv2.IMWRITE_PNG_BILEVEL, 1),
        encoded(cv2.merge([ids] * 3), '.png'), encoded(ids, '.jpg'),
    ]
    label = labels / 'a.png'
    refused = run(
        label, pngs, [lambda: read_folder(tmp_path, CLASSES), lambda: read_ignore_mask(label)],
        INPUTS,
    )
    check_share(refused, 2 * INPUTS)
    label.write_bytes(encoded(ids, '.png'))
    jpegs = [encoded(picture(), suffix) for suffix in ('.jpg', '.png', '.bmp', '.webp', '.tif')]
    refused = run(
        images / 'a.png', [*jpegs, turned_jpeg()],
        [lambda: read_image(images / 'a.png'), lambda: read_folder(tmp_path, CLASSES),
         lambda: list(spread_images(tmp_path, 2))],
        INPUTS,
    )
    check_share(refused, 3 * INPUTS)


def test_damaged_tables_of_labels(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_bytes(encoded(picture(), '.png'))
    table = tmp_path / 'table.tsv'
    refused = run(
        table, b'file\tlabel\na.png\troad\na.png\t1\n',
        [lambda: list_classified(table, CLASSES)], INPUTS, text=True,
    )
    refused += run(
        table, b'a.png\troad\na.png\t1\n', [lambda: list_classified(table, CLASSES)], INPUTS
    )
    check_share(refused, 2 * INPUTS)


def test_damaged_coco_files(tmp_path: Path) -> None:
    (tmp_path / 'a.png').write_bytes(encoded(picture(), '.png'))
    path = tmp_path / 'coco.json'
    whole = json.dumps({
        'images': [{'id': 1, 'file_name': 'a.png', 'height': HEIGHT, 'width': WIDTH}],
        'categories': [{'id': 7, 'name': 'road'}, {'id': 9, 'name': 'car'}],
        'annotations': [
            {'id': 1, 'image_id': 1, 'category_id': 7, 'bbox': [1, 2, 3.5, 4], 'iscrowd': 0}
        ],
    }, indent=1).encode()
    refused = run(path, whole, [lambda: read_coco(path)], INPUTS, text=True)
    refused += run(path, whole, [lambda: read_coco(path)], INPUTS)
    check_share(refused, 2 * INPUTS)


def test_damaged_model_specs(tmp_path: Path) -> None:
    path = tmp_path / 'model.yaml'
    whole = yaml.safe_dump({
        'name': 'n', 'task': 'segmentation', 'height': 64, 'width': 96, 'classes': list(CLASSES),
        'mean': [0.0] * 3, 'std': [1.0] * 3, 'channel_order': 'rgb', 'licence': 'CC0-1.0',
        'colours': [[1, 2, index] for index in range(3)], 'input': 'float_nchw',
        'output': 'logits',
    }).encode()

    def from_metadata() -> None:
        text = path.read_bytes().decode(errors='replace')
        ModelSpec.from_metadata({METADATA_KEY: text}, tmp_path / 'model.onnx')

    refused = run(path, whole, [lambda: ModelSpec.from_yaml(path)], INPUTS, text=True)
    refused += run(path, whole, [lambda: ModelSpec.from_yaml(path)], INPUTS)
    check_share(refused, 2 * INPUTS)
    spec = json.dumps(yaml.safe_load(whole), indent=1).encode()
    refused = run(path, spec, [from_metadata], INPUTS, text=True)
    check_share(refused, INPUTS)


def test_damaged_models_of_the_fake_engine(tmp_path: Path) -> None:
    path = write_fake(tmp_path / 'model.yaml', identity_spec(64, 96))
    refused = run(
        path, path.read_bytes(), [lambda: FakeEngine(path, Opening('fake'))], INPUTS, text=True
    )
    check_share(refused, INPUTS)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_damaged_bags(tmp_path: Path, storage: str) -> None:
    drawn, whole, broken = tmp_path / 'drawn', tmp_path / 'whole', tmp_path / 'broken'
    draw_bag(drawn, duration_s=0.2, height=64, width=64)
    with BagReader(drawn) as reader, BagWriter(whole, storage) as writer:
        for topic in reader.topics:
            writer.add_topic(topic.name, topic.type_name, topic.qos, definition=topic.definition)
        for message in reader.messages():
            writer.write(message.topic, message.stamp_ns, message.cdr)

    def read_all() -> None:
        with BagReader(broken) as bag:
            for message in bag.messages():
                bag.deserialize(message)

    def read_camera() -> None:
        topics = find_camera(broken)
        list(read_images(broken, topics.image))
        if topics.label:
            list(read_ids(broken, topics.label))

    refused, inputs = 0, count(30, 0.1)
    for seed, rng in generators(inputs):
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(whole, broken)
        file = pick(rng, sorted(broken.iterdir()))
        content = file.read_bytes()
        if file.suffix == '.yaml' and rng.random() < 0.5:
            file.write_text(damage_text(rng, content.decode()))
        else:
            file.write_bytes(damage(rng, content))
        for reader in (read_all, read_camera):
            refused += not survivors(reader, f'{file.name}, FUZZ_SEED={seed}')
    check_share(refused, 2 * inputs)
