"""Parameters that no node takes: misspelt names, and sections of a YAML file for no node."""

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

# By the node's own name: the bag nodes' lack what their executables' end with.
PARAMETERS = {
    name.removesuffix('_node') if name.startswith('bag_') else name:
    {item.name for item in fields(cls)} for name, cls in NODES.items()
}
OF_ROS = ('use_sim_time', 'start_type_description_service')
QOS = 'qos_overrides.'  # declared with their topic


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the advice for an unknown name: the nearest known one, else all of them."""
    known = list(known)
    close = nearest(name, known, 0.6)
    return f'did you mean {close!r}?' if close else f'it has {", ".join(known)}'


def is_misspelt(name: str, known: Iterable[str]) -> bool:
    """Tell whether a parameter is neither one of these nor one that every node has."""
    return name not in known and name not in OF_ROS and not name.startswith(QOS)


def check_overrides(node: Node, cls: type[Any], alone: bool) -> None:
    """Check that each value that a node was started with is of one of its parameters.

    A value for every node (`/**:`, `-p`) may be of another node of this package: that has no
    effect here, which is only told where the node is alone in its process.

    Args:
        node: its parameters are declared.
        cls: its parameter class.
        alone: whether it is the process's only one.

    Raises:
        ParameterError: nobody has such a parameter; the message names the nearest.
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

    Sections of other nodes are normal, for one file may serve all of a robot: refused is what
    looks like one of ours and is none.

    Args:
        args: of the process, with its `--params-file`.
        nodes: of the process.

    Returns:
        What is to be warned of: sections of nodes of this process under another name, or before
        one for all of their kind, which ROS, going from top to bottom, lets win.

    Raises:
        ParameterError: a section's name is nearly that of one of our nodes, or one of ours has a
            parameter that its node has not.
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
    """Return the name that a node has unless it is given another (`__node`)."""
    cls = getattr(node, 'Parameters', None)
    return next((name for name, each in NODES.items() if each is cls), node.get_name())


def check_section(file: str, name: str, values: Iterable[str]) -> None:
    """Raise ParameterError if a section is nearly one of ours, or sets what its node has not."""
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
    """Return the files that ROS arguments name."""
    return [after for flag, after in pairwise(args) if flag == '--params-file']


def read_sections(file: str) -> Iterator[tuple[str, list[str]]]:
    """Yield name and parameters of each section; nothing of a file that rcl has to refuse."""
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
    """Tell whether a section's name, in which * and ** stand for parts, is that of a node."""
    pattern = re.escape(section).replace(r'/\*\*', '(/[^/]+)*').replace(r'\*', '[^/]+')
    return bool(re.fullmatch(pattern, name))
