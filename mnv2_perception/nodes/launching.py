"""What a launch file has to know before there is a node: which ones, on which topics."""

from collections.abc import Iterable
from dataclasses import fields
import json
import re
from tempfile import NamedTemporaryFile
from typing import Any

import rclpy
from rclpy.context import Context
from rclpy.node import Node

from mnv2_perception.errors import nearest, ParameterError
from mnv2_perception.nodes import parameters
from mnv2_perception.nodes.declare import check_names, declare, read
from mnv2_perception.nodes.parameters import CAMERA_NAME, PerceptionParameters, SHARING_NODES

NODE_NAMES = tuple(SHARING_NODES)
TOPICS = {
    'image': 'image', 'camera_info': 'camera_info', 'depth_image': 'depth/image',
    'depth_camera_info': 'depth/camera_info', 'points': 'points',
}
# Of rcl's rules: another one ends each process that has it, and respawn starts that again.
TOPIC_NAME = re.compile('(~?/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')


def split(names: str) -> tuple[str, ...]:
    """Return the names between commas."""
    return tuple(name.strip() for name in names.split(',') if name.strip())


def misspelt(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return a sentence for each argument that launch hands on and that is nearly one of these.

    What an including file declares for itself is there too: so nothing else is told of.
    """
    known = list(known)
    return [
        f'{name} is not an argument of this launch file and has no effect; did you mean {close}?'
        for name in given if name not in known and (close := nearest(name, known, 0.85))
    ]


def chosen(
    nodes: str, cameras: str, params_file: str, namespace: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return which nodes run, and the names of the cameras; one without a name is ''.

    Args:
        nodes: out of `NODE_NAMES`, with commas; empty: those that perception reads from the file.
        cameras: names with commas; empty: those that perception reads from the file.
        params_file: parameter file, YAML.
        namespace: of perception, absolute; '' is the root.

    Raises:
        ParameterError: a name is not possible or there twice, no node is left, or the file
            holds no parameters.
    """
    values = read_file(params_file, namespace)
    wanted = check_names('nodes', split(nodes) or values.nodes, '|'.join(NODE_NAMES))
    if not wanted:
        raise ParameterError(
            f'nodes is empty in {params_file}; expected one or more of {", ".join(NODE_NAMES)}'
        )
    names = check_names('cameras', split(cameras) or values.cameras, CAMERA_NAME)
    return tuple(name for name in NODE_NAMES if name in wanted), names or ('',)


def read_file(params_file: str, namespace: str) -> PerceptionParameters:
    """Return the parameters that perception will have: rcl reads the file, here as there.

    Raises:
        ParameterError: the file holds no parameters, or one of another type.
    """
    context = Context()
    rclpy.init(args=['--ros-args', '--disable-external-lib-logs'], context=context)
    try:
        node = Node(
            'perception', namespace=namespace, context=context, use_global_arguments=False,
            cli_args=['--ros-args', '--params-file', params_file],
            enable_rosout=False, start_parameter_services=False,
        )
        declare(node, PerceptionParameters)
        values = read(node, PerceptionParameters)
        node.destroy_node()
        return values
    except RuntimeError as exc:  # rcl's
        raise ParameterError(
            f'params_file: {params_file} is not a file of parameters: '
            f'{str(exc).splitlines()[0]}; expected node names, ros__parameters and values, as in '
            f'config/perception.yaml'
        ) from exc
    finally:
        rclpy.shutdown(context=context)


def camera_remappings(given: dict[str, str], spaces: dict[str, str]) -> list[tuple[str, str]]:
    """Return the rules that bring each camera's topics to its nodes.

    Args:
        given: topics by the names of `TOPICS`, with {camera} for the camera's name; an empty one
            is not remapped. A camera_info lies beside its image unless it is given.
        spaces: namespace of each camera's nodes, by its name.

    Raises:
        ParameterError: cameras would share a topic, or have no name to put into it, or it is no
            topic's name.
    """
    topics = {name: given[name] for name in TOPICS if given[name]}
    for image, info in (('image', 'camera_info'), ('depth_image', 'depth_camera_info')):
        if image in topics and info not in topics:
            topics[info] = beside(topics[image], 'camera_info')
    for name, topic in topics.items():
        if '{camera}' in topic and '' in spaces:
            raise ParameterError(
                f'{name} is {topic}, but the cameras have no names; give their names (cameras:=…) '
                f'or a topic without {{camera}}'
            )
        if '{camera}' not in topic and topic.startswith('/') and len(spaces) > 1:
            raise ParameterError(
                f'{name} is {topic} for all cameras, {", ".join(spaces)}; put {{camera}} where '
                f"the camera's name belongs, as in /{{camera}}{topic}"
            )
        check_topic(name, topic.replace('{camera}', 'camera'))
    return [
        (f'{space}/{TOPICS[name]}', topic.replace('{camera}', camera))
        for name, topic in topics.items() for camera, space in spaces.items()
    ]


def tf_remappings(
    tf: str, namespace: str, rules: list[tuple[str, str]]
) -> list[tuple[str, str]]:
    """Return all rules of a launch file's nodes, with the robot's own tf.

    A relative name, as in Nav2's /tf:=tf, would lie in the namespace of each camera, where
    nobody publishes: it is meant to lie in the robot's.

    Args:
        tf: topic of tf, to which tf_static lies beside; empty: as the rules have it.
        namespace: of the robot, absolute; '' is the root.
        rules: from outside, as launch_ros's SetRemap keeps them.

    Raises:
        ParameterError: tf is no topic's name.
    """
    if tf:
        check_topic('tf', tf)
        own = [('/tf', tf), ('/tf_static', beside(tf, 'tf_static'))]
        rules = [*own, *rules]  # the first that fits counts
    return [
        (name, f'{namespace}/{topic}')
        if name in ('/tf', '/tf_static') and not topic.startswith('/') else (name, topic)
        for name, topic in rules
    ]


def check_topic(argument: str, topic: str) -> None:
    """Raise ParameterError unless an argument is a topic's name, absolute or relative."""
    if not TOPIC_NAME.fullmatch(topic):
        raise ParameterError(
            f'{argument} is {topic!r}, which is not a valid topic name; expected names of '
            f'letters, digits and _ that do not begin with a digit, separated by /, as in '
            f'/camera/image_raw'
        )


def beside(topic: str, name: str) -> str:
    """Return the topic of a name in the same namespace as another."""
    return re.sub('[^/]*$', name, topic, count=1)


def write_parameters(sections: dict[str, dict[str, Any]]) -> list[str]:
    """Write a parameter file where launch_ros writes its own; without any value there is none.

    Args:
        sections: parameters by the node's full name, for such a section goes before those of
            other files, whatever these match. What a node does not have is left out.
    """
    tree = {}
    for name, values in sections.items():
        known = {item.name for item in fields(parameters.NODES[name.rpartition('/')[2]])}
        own = {key: value for key, value in values.items() if key in {*known, 'use_sim_time'}}
        if own:
            tree[name] = {'ros__parameters': own}
    if not tree:
        return []
    with NamedTemporaryFile('w', prefix='launch_params_', suffix='.yaml', delete=False) as file:
        json.dump(tree, file)  # which is YAML too
    return [file.name]
