"""Train UNet-MobileNetV2 for segmentation: from ImageNet features to a checkpoint."""

from dataclasses import asdict
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from mnv2_perception import dataset
from mnv2_perception.errors import DataError
from mnv2_perception.metrics import ConfusionMatrix
from mnv2_perception.model_spec import ModelSpec, UNLABELLED
from mnv2_perception.nets.checkpoint import (
    load_backbone,
    load_checkpoint,
    save_checkpoint,
    SegmentationCheckpoint,
)
from mnv2_perception.nets.unet import check_divisible, UNet
from mnv2_perception.training import data
from mnv2_perception.training.recipe import Recipe
from mnv2_perception.vision import scenes
from mnv2_perception.vision.decode import resize_ids
from mnv2_perception.vision.preprocess import normalise, resize_image


def train(
    folder: Path,
    out: Path,
    spec: ModelSpec,
    recipe: Recipe,
    backbone: Path | None = None,
    val: Path | None = None,
    resume: bool = False,
) -> float:
    """Train and write `out/last.pt` after each epoch, `out/log.jsonl` as it goes.

    With a backbone its batch statistics stay as they are (a batch of 8 estimates worse ones) and
    the first `frozen_stages` keep their weights: edges and textures are the same everywhere.

    Args:
        folder: data set, see `dataset.list_pairs`.
        out: folder of the run; made if missing.
        spec: the task's classes, scaling and input size; becomes the exported model's.
        recipe: see Recipe.
        backbone: checkpoint with torchvision's `features.*`; None starts from random weights.
        val: data set that is only measured on, never trained on.
        resume: go on from `out/last.pt`.

    Returns:
        mIoU on `val` after the last epoch, 0 to 1; NaN without `val`.

    Raises:
        DataError: a data set cannot be used, or `out` holds another run.
        ModelError: backbone or checkpoint cannot be loaded, or a crop does not divide by 32.
    """
    check_divisible(recipe.crop_height, recipe.crop_width)
    if recipe.drawn and spec.classes != scenes.CLASSES:
        raise DataError(
            f'drawn scenes have the classes {", ".join(scenes.CLASSES)}, the spec '
            f'{", ".join(spec.classes)}; give --drawn 0'
        )
    last = out / 'last.pt'
    if last.exists() and not resume:
        raise DataError(f'{last} exists; go on with --resume, or choose another --out')
    pairs = dataset.list_pairs(folder)
    samples = dataset.read_folder(folder, len(spec.classes))
    val_pairs = dataset.list_pairs(val) if val else []
    check_disjoint(pairs, val_pairs)
    weights = data.class_weights(samples, len(spec.classes))
    height, width = samples[0][0].shape[:2]
    samples += data.draw_samples(recipe.drawn, recipe.seed, height, width)

    torch.manual_seed(recipe.seed)
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    net = UNet(len(spec.classes), recipe.width_mult, recipe.decoder, recipe.encoder)
    if backbone:
        load_backbone(net.encoder, backbone)
    net = net.to(device, memory_format=torch.channels_last)
    frozen = net.encoder.stages()[: recipe.frozen_stages] if backbone else []
    for stage in frozen:
        stage.requires_grad_(False)
    encoder_rate = recipe.learning_rate * (recipe.encoder_rate if backbone else 1.0)
    rates = [encoder_rate, recipe.learning_rate]
    decoder = [*net.decoder.parameters(), *net.segmentation_head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {'params': [p for p in net.encoder.parameters() if p.requires_grad]},
            {'params': decoder},
        ],
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
    )
    steps = -(-len(samples) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rates, total_steps=recipe.epochs * steps, pct_start=0.15
    )
    facts = {
        'recipe': asdict(recipe),
        'images': len(pairs),
        'training_list_sha256': dataset.hash_list(pairs),
        'backbone_sha256': hashlib.sha256(backbone.read_bytes()).hexdigest() if backbone else '',
    }
    first_epoch = 0
    if resume:
        first_epoch = restore(last, net, optimizer, schedule, spec, facts)
    loss_weights = torch.from_numpy(weights).to(device)
    out.mkdir(parents=True, exist_ok=True)
    # A run that is resumed when it is done is only measured again.
    miou = evaluate(net, val_pairs, spec) if val and first_epoch == recipe.epochs else None
    for epoch in range(first_epoch, recipe.epochs):
        net.train()
        if backbone:
            freeze_batch_statistics(net.encoder)
        # Seeded by epoch, so that a resumed run sees what an unbroken one would have seen.
        rng = np.random.default_rng((recipe.seed, epoch))
        order = rng.permutation(len(samples))
        total = 0.0
        progress = tqdm(range(steps), desc=f'epoch {epoch + 1}/{recipe.epochs}', unit='batch')
        for step in progress:
            chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
            crops = [
                data.augment(samples[i], recipe.crop_height, recipe.crop_width, rng)
                for i in chosen
            ]
            images = np.stack([
                normalise(image, spec.mean, spec.std, spec.channel_order) for image, _ in crops
            ])
            labels = np.stack([label for _, label in crops]).astype(np.int64)
            logits = net(
                torch.from_numpy(images).to(device, memory_format=torch.channels_last)
            )  # (N, classes, H/s, W/s)
            loss = functional.cross_entropy(
                functional.interpolate(logits, labels.shape[-2:], mode='bilinear'),
                torch.from_numpy(labels).to(device),
                loss_weights,
                ignore_index=UNLABELLED,
            )
            if loss.isnan() and (labels == UNLABELLED).all():
                continue  # nothing to learn from
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
            progress.set_postfix(loss=f'{total / (step + 1):.3f}')
        final = epoch + 1 == recipe.epochs
        miou = evaluate(net, val_pairs, spec) if val and (final or (epoch + 1) % 10 == 0) else None
        checkpoint = SegmentationCheckpoint(
            spec, recipe.width_mult, recipe.decoder, net.state_dict(), facts,
            epoch + 1, optimizer.state_dict(), schedule.state_dict(),
            recipe.encoder)
        save_checkpoint(checkpoint, last)
        with (out / 'log.jsonl').open('a', encoding='utf-8') as log:
            entry = {'epoch': epoch + 1, 'loss': total / steps, 'val_miou': miou}
            log.write(json.dumps(entry) + '\n')
    return float('nan') if miou is None else miou


def check_disjoint(
    pairs: list[tuple[Path, Path]], val_pairs: list[tuple[Path, Path]]
) -> None:
    """Raise DataError if an image to measure on is also trained on."""
    trained = {hashlib.sha256(image.read_bytes()).digest() for image, _ in pairs}
    for image, _ in val_pairs:
        if hashlib.sha256(image.read_bytes()).digest() in trained:
            raise DataError(f'{image} is also in the training set; measure on other images')


def freeze_batch_statistics(module: nn.Module) -> None:
    """Let batch normalisation use its stored statistics; scale and offset still learn."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def restore(
    path: Path,
    net: UNet,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    spec: ModelSpec,
    facts: dict[str, Any],
) -> int:
    """Load a run's state and return the number of epochs that it has done.

    Raises:
        DataError: the checkpoint is of another spec, recipe or training list.
    """
    checkpoint = load_checkpoint(path)
    differing = [key for key in facts if facts[key] != checkpoint.facts.get(key)]
    if checkpoint.spec != spec:
        differing.append('spec')
    if differing:
        raise DataError(
            f'{path}: was trained with another {", ".join(differing)}; '
            f'resume with the same arguments, or choose another --out'
        )
    net.load_state_dict(checkpoint.state_dict)
    optimizer.load_state_dict(checkpoint.optimizer)
    schedule.load_state_dict(checkpoint.schedule)
    return checkpoint.epoch


def evaluate(net: UNet, pairs: list[tuple[Path, Path]], spec: ModelSpec) -> float:
    """Return the mIoU (0 to 1) of a net on labelled images, at the images' own size."""
    matrix = ConfusionMatrix(len(spec.classes))
    device = next(net.parameters()).device
    net.eval()
    with torch.inference_mode():
        for image_path, label_path in pairs:
            image, label = dataset.read_pair(image_path, label_path)
            image = resize_image(image, spec.height, spec.width)
            tensor = normalise(image, spec.mean, spec.std, spec.channel_order)
            logits = net(torch.from_numpy(tensor)[None].to(device))
            ids = logits.argmax(1)[0].to(torch.uint8).cpu().numpy()
            matrix.add(label, resize_ids(ids, *label.shape))
    return matrix.miou()
