"""`mnv2 embed`: write features of pictures, or the encoder that computes them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
import tempfile
from typing import TYPE_CHECKING

from mnv2_perception.cli.options import add_command, add_force, add_model_options, check_output
from mnv2_perception.errors import DataError, ModelError, not_loaded, SetupError

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.model_spec import ModelSpec
    from mnv2_perception.tasks.embedder import Embedder


def add(commands: 'Commands') -> None:
    """Add the command."""
    embed = add_command(
        commands, 'embed', embed_command,
        "Write feature vectors of pictures, from a model's encoder.",
        "Each vector is the mean of the encoder's last feature map. Use them to find pictures "
        'that are similar, unusual or duplicates. With --onnx, writes the encoder itself.',
    )
    add_model_options(embed, optional=False, precision=False)
    embed.add_argument(
        'pictures', type=Path, nargs='*', help='picture files, or folders of pictures'
    )
    embed.add_argument(
        '--out', type=Path, metavar='FILE',
        help='file for the features: .npz (features: one float32 row per picture; files: their '
        'names) or .npy (only the rows)',
    )
    embed.add_argument(
        '--onnx', type=Path, metavar='FILE',
        help='write the encoder as a model: input image (1, H, W, 3) uint8, output features '
        '(1, channels) float32',
    )
    embed.add_argument(
        '--encoder',
        help='network of a file of ImageNet weights (.pth), such as mobilenet_v2 (default: as '
        'the file name says)',
    )
    add_force(embed)


def embed_command(arguments: argparse.Namespace) -> None:
    """Write features of pictures, or the encoder."""
    from mnv2_perception.tasks.embedder import Embedder

    out, onnx = arguments.out, arguments.onnx
    if bool(arguments.pictures) != bool(out) or not (out or onnx):
        raise SetupError(
            'give pictures and --out for their features, or --onnx for the encoder, or both'
        )
    pictures = list_pictures(arguments.pictures)
    if out:
        check_output(out, arguments.force, [*pictures, Path(arguments.model)], ['.npz', '.npy'])
    if onnx:
        check_output(onnx, arguments.force, [*pictures, Path(arguments.model)], ['.onnx'])
    with tempfile.TemporaryDirectory() as folder:
        model = find_encoder(arguments.model, arguments.encoder, Path(folder))
        embedder = Embedder.open(model, arguments.engine, arguments.threads)
        try:
            if onnx:
                write_encoder(model, embedder.spec, onnx)
                size = embedder.spec.height, embedder.spec.width
                print(f'{onnx}: {embedder.channels} features of an image of {size[0]}×{size[1]}')
            if out:
                write_features(embedder, pictures, out)
        finally:
            embedder.close()


def list_pictures(given: Sequence[Path]) -> list[Path]:
    """Return the given files, and those in given folders in the order of their names.

    Raises:
        DataError: a folder has no pictures, or a file does not exist.
    """
    from mnv2_perception.data.images import IMAGE_SUFFIXES, is_file, list_images

    found: list[Path] = []
    for path in given:
        if not path.is_dir() and not is_file(path):
            raise DataError(f'{path}: no such file')
        images = list_images(path) if path.is_dir() else [path]
        if not images and (path / 'images').is_dir():  # a data set
            images = list_images(path / 'images')
        if not images:
            raise DataError(f'{path}: holds no pictures ({" ".join(IMAGE_SUFFIXES)})')
        found += images
    return found


def find_encoder(model: str, encoder: str | None, folder: Path) -> Path:
    """Return the .onnx file of a model; weights are first exported to `folder`.

    Raises:
        ModelError: there is no such model, or the network of weights is not known.
        SetupError: torch, which reads weights, is missing, or the download failed.
    """
    from mnv2_perception.tasks.models import find_model
    from mnv2_perception.training.fetch import cache_folder, fetch, PUBLISHED

    licence, path = 'unknown', Path(model)
    if model in PUBLISHED and not path.is_file():
        licence, path = PUBLISHED[model].licence, fetch(model, cache_folder())
    if path.suffix not in ('.pt', '.pth'):
        if encoder is not None:
            raise ModelError(f'--encoder is only for weights (.pth); {model} says itself which '
                             f'network it is')
        return find_model(model)
    try:
        from mnv2_perception.nets.export import export_weights
    except ImportError as exc:
        raise SetupError(
            f'{model}: reading weights needs torch and onnx '
            f'{not_loaded(exc, "run `make setup-train`, or give a model (.onnx)")}'
        ) from exc
    exported = folder / f'{path.stem}.onnx'
    export_weights(path, encoder or '', licence, exported)
    return exported


def write_encoder(model: Path, spec: 'ModelSpec', out: Path) -> None:
    """Write the encoder of a model, with its spec, completely or not at all."""
    from mnv2_perception.data.files import replacing
    from mnv2_perception.engines.encoder import cut_encoder

    encoder = cut_encoder(model, spec.to_metadata())  # the spec may be in a YAML beside it
    with replacing(out) as partial:
        partial.write_bytes(encoder)


def write_features(embedder: 'Embedder', pictures: Sequence[Path], out: Path) -> None:
    """Write the features of pictures, completely or not at all, and print what was written."""
    import numpy as np

    from mnv2_perception.data.files import replacing
    from mnv2_perception.data.images import read_image

    features = np.stack([embedder(read_image(path)) for path in pictures])  # (N, channels)
    with replacing(out) as partial:
        if out.suffix.lower() == '.npy':
            np.save(partial, features)
        else:
            np.savez(partial, features=features, files=np.array([str(each) for each in pictures]))
    print(f'{out}: {len(features)} pictures, {features.shape[1]} features each')
