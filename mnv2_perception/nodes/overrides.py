"""Find given parameters that no node has: misspelt names, and YAML sections that fit no node."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from itertools import combinations, pairwise
from pathlib import Path
import re
from typing import Any

from rclpy.node import Node
import yaml

from mnv2_perception.errors import nearest, ParameterError
from mnv2_perception.nodes.parameters import NODES
from mnv2_perception.nodes.rclpy_private import undeclared_overrides

# By the name of the node: those of the bag nodes do not end with _node as their executables do.
PARAMETERS = {
    name.removesuffix('_node') if name.startswith('bag_') else name:
    {item.name for item in fields(cls)} for name, cls in NODES.items()
}
OF_ROS = ('use_sim_time', 'start_type_description_service')
QOS = 'qos_overrides.'  # these are declared together with their topic


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return advice for an unknown name: the nearest known one, otherwise all of them."""
    known = list(known)
    close = nearest(name, known, 0.6)
    return f'did you mean {close!r}?' if close else f'it has {", ".join(known)}'


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """Tell whether a parameter is neither a known one nor one that every node has."""
    return name not in known and name not in OF_ROS and not name.startswith(QOS)


def check_overrides(node: Node, cls: type[Any], alone: bool) -> None:
    """Check that each initial value of a node is of a parameter that exists.

    A value for every node (`/**:`, `-p`) may belong to another node of this package and has no
    effect here; there is a warning about that only if the node is alone in its process.

    Args:
        node: node whose parameters are declared.
        cls: its parameter class.
        alone: whether it is the only node of its process.

    Raises:
        ParameterError: no node has such a parameter; the message names the nearest one.
    """
    anywhere = set().union(*PARAMETERS.values())
    names = {item.name for item in fields(cls)}
    for name in undeclared_overrides(node):
        if is_misspelt(name, anywhere):
            raise ParameterError(
                f'{node.get_name()} has no parameter {name!r}: '
                f'{did_you_mean(name, sorted(names))}'
            )
        if alone and name in anywhere:
            node.get_logger().warning(
                f'{name} is a parameter of other nodes and has no effect on {node.get_name()}'
            )


def check_params_files(args: Sequence[str], nodes: Sequence[Node]) -> list[str]:
    """Check the YAML files that a process was started with.

    Sections of other nodes are normal, because one file may serve a whole robot; only a section
    that looks like one of ours and is not is refused.

    Args:
        args: arguments of the process, with its `--params-file`.
        nodes: nodes of the process.

    Returns:
        Warnings: sections of nodes of this process under another name, or above a section for all
        nodes of their kind, which wins, because ROS reads from top to bottom.

    Raises:
        ParameterError: a section's name is almost that of one of our nodes, or one of ours sets a
            parameter that its node does not have.
    """
    warnings = []
    for file in params_files(args):
        sections = list(read_sections(file))
        for name, values in sections:
            check_section(file, name, values)
        names = [node.get_fully_qualified_name() for node in nodes]
        for (name, values), (later, others) in combinations(sections, 2):
            lost = sorted({*values} & {*others}) if '*' in later and '*' not in name else []
            if lost and any(matches(name, full) and matches(later, full) for full in names):
                warnings.append(
                    f'{file}: {later} comes after {name} and overrides its {", ".join(lost)}; '
                    f'move {name} below it'
                )
        for kind in PARAMETERS:
            ours = [node for node in nodes if kind_of(node) == kind]
            known = {kind, *(node.get_name() for node in ours)}
            own = [name for name, _ in sections if name.rpartition('/')[2] in known]
            full = [node.get_fully_qualified_name() for node in ours]
            if full and own and not any(matches(name, each) for name in own for each in full):
                warnings.append(
                    f'{file}: {", ".join(own)} matches none of {", ".join(full)}, which start '
                    f'with their defaults; write /**/{ours[0].get_name()}, or the full namespace'
                )
    return warnings


def kind_of(node: Node) -> str:
    """Return the name that a node has unless `__node` renames it."""
    cls = getattr(node, 'Parameters', None)
    return next((name for name, each in NODES.items() if each is cls), node.get_name())


def check_section(file: str, name: str, values: Iterable[str]) -> None:
    """Raise ParameterError if a section is almost one of ours, or sets an unknown parameter."""
    kind, values = name.rpartition('/')[2], list(values)
    if kind in PARAMETERS:
        for value in values:
            if is_misspelt(value, PARAMETERS[kind]):
                raise ParameterError(
                    f'{file}: {kind} has no parameter {value!r}: '
                    f'{did_you_mean(value, sorted(PARAMETERS[kind]))}'
                )
        return
    spelt = nearest(kind, PARAMETERS, 0.85), f'{kind}_node', kind.removesuffix('_node')
    close = next((each for each in spelt if each in PARAMETERS), '')
    if close and 2 * sum(value in PARAMETERS[close] for value in values) >= len(values):
        raise ParameterError(
            f'{file}: no node is called {kind!r}, so its section has no effect; did you mean '
            f'{close!r}?'
        )


def params_files(args: Sequence[str]) -> list[str]:
    """Return the parameter files that ROS arguments name."""
    return [after for flag, after in pairwise(args) if flag == '--params-file']


def read_sections(file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the parameters of each section; nothing if rcl will refuse the file."""
    try:
        content = yaml.safe_load(Path(file).read_text(encoding='utf-8'))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return
    yield from _sections('', content)


def _sections(prefix: str, content: Any) -> Iterator[tuple[str, list[str]]]:
    if not isinstance(content, dict):
        return
    for name, inner in content.items():
        if name == 'ros__parameters':
            yield prefix, list(_flat('', inner))
        else:
            yield from _sections(f'{prefix}/{str(name).strip("/")}', inner)


def _flat(prefix: str, values: Any) -> Iterator[str]:
    for name, value in (values or {}).items():
        if isinstance(value, dict):
            yield from _flat(f'{prefix}{name}.', value)
        else:
            yield f'{prefix}{name}'


def matches(section: str, name: str) -> bool:
    """Tell whether a section's name, with its wildcards * and **, matches a node's full name."""
    pattern = re.escape(section).replace(r'/\*\*', '(/[^/]+)*').replace(r'\*', '[^/]+')
    return bool(re.fullmatch(pattern, name))
