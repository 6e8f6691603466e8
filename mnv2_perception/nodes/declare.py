"""Turn a parameter class into a node's parameters: declare, read, check and change them."""

from collections import Counter
from dataclasses import Field, field, fields, replace
import math
import re
from typing import Any, TypeVar

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterException
from rclpy.node import Node
from rclpy.parameter import Parameter

from mnv2_perception.errors import ParameterError

P = TypeVar('P')


def parameter(
    default: Any,
    meaning: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Any, ...] = (),
    live: bool = False,
) -> Any:
    """Declare a field of a parameter class.

    Args:
        default: value if none is given.
        meaning: one sentence for `ros2 param describe` and docs/parameters.md.
        low: smallest value, for numbers.
        high: largest value, for numbers.
        choices: the possible values, if they are few.
        live: whether it may be set while the node is active; otherwise only while unconfigured.
    """
    meta = {'meaning': meaning, 'low': low, 'high': high, 'choices': choices, 'live': live}
    return field(default=default, metadata=meta)


def declare(node: Node, cls: type[Any], read_only: bool = False) -> None:
    """Declare the fields of a parameter class on a node, with ranges and descriptions.

    Args:
        node: the node.
        cls: its parameter class.
        read_only: whether the values are fixed once the node exists.

    Raises:
        ParameterError: a given value has the wrong type or is out of range.
    """
    for item in fields(cls):
        meta = item.metadata
        descriptor = ParameterDescriptor(description=meta['meaning'], read_only=read_only)
        if meta['choices']:
            descriptor.additional_constraints = f'one of {meta["choices"]}'
        if isinstance(item.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=meta['low'], to_value=meta['high'])
            ]
        elif isinstance(item.default, int) and meta['low'] is not None:
            descriptor.integer_range = [
                IntegerRange(from_value=meta['low'], to_value=meta['high'])
            ]
        try:
            node.declare_parameter(item.name, ros_default(item), descriptor)
        except ParameterException as exc:
            is_double = isinstance(item.default, float)
            point = '; write a double with a point: 4.0, not 4' if is_double else ''
            raise ParameterError(
                f'{node.get_name()}, parameter {item.name}: {exc}{point}; '
                f'{meta["meaning"]} {describe_range(item)}'
            ) from exc


def read(node: Node, cls: type[P]) -> P:
    """Return the node's parameters as an instance of its parameter class.

    Raises:
        ParameterError: a value is not one of the choices, is not finite, or contradicts another.
    """
    values = cls(**{
        # an empty list in YAML sets no value
        item.name: value_of(item, node.get_parameter_or(item.name).value)
        for item in fields(cls)  # type: ignore[arg-type]
    })
    check(values)
    return values


def value_of(item: 'Field[Any]', value: Any) -> Any:
    """Convert a ROS parameter value to the value of its field.

    Raises:
        ParameterError: it is not finite, or not one of the field's choices.
    """
    if isinstance(item.default, tuple):
        value = tuple(part for part in value or () if part != '')
    parts = value if isinstance(value, tuple) else (value,)
    if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
        raise ParameterError(f'{item.name} is {value}, expected a finite number')
    check_choice(item, value)
    return value


def check(values: Any) -> None:
    """Raise ParameterError if parameters contradict each other, as far as their class can tell."""
    if hasattr(values, 'check'):
        values.check()


def ros_default(item: 'Field[Any]') -> Any:
    """Return a field's default in the form that ROS takes.

    rclpy takes an empty list for BYTE_ARRAY: a single empty string stands for it.
    """
    return (list(item.default) or ['']) if isinstance(item.default, tuple) else item.default


def change(
    values: P | None, changes: list[Parameter], cls: type[P]
) -> tuple[P | None, SetParametersResult]:
    """Apply changes while a node runs.

    Args:
        values: parameters of the configured node; None while it is unconfigured.
        changes: parameters to set.
        cls: the node's parameter class.

    Returns:
        The new values (the old ones if a change is refused), and the answer to the caller.
    """
    by_name = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]
    ours = [parameter for parameter in changes if parameter.name in by_name]
    given: dict[str, Any] = {}
    before = values
    try:
        for new in ours:
            item = by_name[new.name]
            given[new.name] = value_of(item, new.value)
            if values is not None and not item.metadata['live']:
                raise ParameterError(
                    f'{new.name} is read when the node is configured; deactivate and clean up '
                    f'first'
                )
        if values is not None:
            values = replace(values, **given)  # type: ignore[type-var]
            check(values)
    except ParameterError as exc:
        return before, SetParametersResult(successful=False, reason=str(exc))
    return values, SetParametersResult(successful=True)


def check_choice(item: 'Field[Any]', value: Any) -> None:
    """Raise ParameterError if the field has choices and the value is none of them."""
    choices = item.metadata['choices']
    if choices and value not in choices:
        raise ParameterError(f'{item.name} is {value!r}, expected one of {choices}')


def check_names(parameter: str, names: tuple[str, ...], pattern: str) -> tuple[str, ...]:
    """Return the names if all of them are valid.

    Raises:
        ParameterError: a name does not match the pattern, or appears twice.
    """
    wrong = [name for name in names if not re.fullmatch(pattern, name)]
    wrong += [name for name, count in Counter(names).items() if count > 1]
    if wrong:
        raise ParameterError(
            f'{parameter} has {", ".join(map(repr, wrong))}; expected {pattern}, each once'
        )
    return names


def describe_range(item: 'Field[Any]') -> str:
    """Return the possible values of a field in words, empty if there is no limit."""
    meta = item.metadata
    if meta['choices']:
        return ', '.join(f'`{choice}`' for choice in meta['choices'])
    return '' if meta['low'] is None else f'{meta["low"]} to {meta["high"]}'
