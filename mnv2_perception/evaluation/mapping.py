"""Match the classes of labels with those of a model if they have different ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2_perception.errors import DataError

NO_CLASS = 9999  # larger than any number of classes
LEFT_OUT = 'left out'


@dataclass(frozen=True)
class ClassMap:
    """Which classes of the labels and of the model are compared as one.

    Attributes:
        names: names of the compared classes; the index is the id.
        of_label: id for each class of the labels; len(names) for classes that are left out.
        of_model: the same for each class of the model.
        labels: class names of the labels.
        model: class names of the model.
    """

    names: tuple[str, ...]
    of_label: tuple[int, ...]
    of_model: tuple[int, ...]
    labels: tuple[str, ...]
    model: tuple[str, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the compared classes, and of the left out ones together, if there are any."""
        left_out = len(self.names) in (*self.of_label, *self.of_model)
        return (*self.names, LEFT_OUT) if left_out else self.names

    def tables(self) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Return tables (256,) int16 from ids of labels and of masks; NO_CLASS for other ids."""
        tables = np.full((2, 256), NO_CLASS, np.int16)
        tables[0, : len(self.of_label)] = self.of_label
        tables[1, : len(self.of_model)] = self.of_model
        return tables[0], tables[1]

    def facts(self) -> dict[str, Any]:
        """Return `map` and `left_out`; empty if labels and model have the same classes."""
        if self.names == self.labels == self.model:
            return {}
        beyond = len(self.names)
        return {
            'map': {
                name: [each for each, id_ in zip(self.model, self.of_model, strict=True)
                       if id_ == index]
                for index, name in enumerate(self.names)
            },
            'left_out': {
                side: [name for name, id_ in zip(names, ids, strict=True) if id_ == beyond]
                for side, names, ids in (
                    ('labels', self.labels, self.of_label), ('model', self.model, self.of_model)
                )
            },
        }


def map_classes(
    labels: Sequence[str], model: Sequence[str], texts: Sequence[str] = ()
) -> ClassMap:
    """Decide which classes are compared with which.

    Args:
        labels: class names of the labels.
        model: class names of the model.
        texts: pairs such as `floor=road,pavement`: one or several classes of the labels, separated
            by commas, and the corresponding classes of the model. Of the other classes, those of
            equal name are matched. The rest of either side is left out: it is one class that is
            wrong for all others and has no share in a mean.

    Raises:
        DataError: a text is no such pair, or names an unknown class or one twice; or nothing is
            left to compare.
    """
    if not texts and tuple(labels) == tuple(model):
        same = tuple(range(len(labels)))
        return ClassMap(tuple(labels), same, same, tuple(labels), tuple(model))
    pairs = []
    for text in texts:
        sides = [
            [name.strip() for name in side.split(',') if name.strip()] for side in text.split('=')
        ]
        if len(sides) != 2 or not all(sides):
            raise DataError(
                f'--map {text}: expected a class of the labels, =, and classes of the model with '
                f'commas between, such as floor=road,pavement'
            )
        for names, known, whose in (
            (sides[0], labels, 'labels'), (sides[1], model, 'model')
        ):
            if unknown := [name for name in names if name not in known]:
                raise DataError(
                    f'--map {text}: {", ".join(unknown)} is not a class of the {whose}, which has '
                    f'{_some(known)}' + (
                        '; if the labels have other classes, name their file with --spec'
                        if whose == 'labels' and tuple(labels) == tuple(model) else ''
                    )
                )
        pairs.append((sides[0], sides[1]))
    for index, whose in ((0, 'labels'), (1, 'model')):
        named = [name for pair in pairs for name in pair[index]]
        if twice := sorted({name for name in named if named.count(name) > 1}):
            raise DataError(f'--map: {", ".join(twice)} of the {whose} is named twice')
    taken = [{name for pair in pairs for name in pair[index]} for index in (0, 1)]
    pairs += [
        ([name], [name]) for name in labels
        if name not in taken[0] and name in model and name not in taken[1]
    ]
    if not pairs:
        raise DataError(
            f'labels and model have no class in common: {_some(labels)}; and {_some(model)}; '
            f'match them with --map, such as --map {labels[0]}={model[0]}'
        )
    pairs.sort(key=lambda pair: min(labels.index(name) for name in pair[0]))

    def ids(known: Sequence[str], side: int) -> tuple[int, ...]:
        ids = {name: id_ for id_, pair in enumerate(pairs) for name in pair[side]}
        return tuple(ids.get(name, len(pairs)) for name in known)

    return ClassMap(
        tuple('+'.join(pair[0]) for pair in pairs), ids(labels, 0), ids(model, 1),
        tuple(labels), tuple(model),
    )


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:20]) + (' …' if len(names) > 20 else '')
