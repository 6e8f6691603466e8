"""What a launch file has to know before any node exists: which nodes, on which topics."""

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
# rcl's rules. A process given any other name dies, and respawn restarts it for ever.
TOPIC_NAME = re.compile('(~?/)?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')


def split(names: str) -> tuple[str, ...]:
    """Split a list of names at its commas."""
    return tuple(name.strip() for name in names.split(',') if name.strip())


def misspelt(given: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return a sentence for each launch argument whose name is almost one of the known names.

    Arguments that an including launch file declares for itself are among the given ones; so names
    that resemble no known one are not reported.
    """
    known = list(known)
    return [
        f'{name} is not an argument of this launch file and has no effect; did you mean {close}?'
        for name in given if name not in known and (close := nearest(name, known, 0.85))
    ]


def chosen(
    nodes: str, cameras: str, params_file: str, namespace: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the nodes to run, and the names of the cameras; a single unnamed camera is ''.

    Args:
        nodes: some of `NODE_NAMES`, comma-separated; empty: those that the file gives perception.
        cameras: names, comma-separated; empty: those that the file gives perception.
        params_file: path of the parameter file, YAML.
        namespace: namespace of perception, absolute; '' is the root.

    Raises:
        ParameterError: a name is invalid or appears twice, no node is left, or the file holds no
            parameters.
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
    """Return the parameters that perception will have; rcl reads the file, as for the node itself.

    Raises:
        ParameterError: the file holds no parameters, or one of the wrong type.
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
    """Return the remapping rules that connect each camera's topics to its nodes.

    Args:
        given: topics by the names in `TOPICS`, with {camera} for the camera's name; an empty one
            is not remapped. camera_info is taken from beside its image unless it is given.
        spaces: namespace of each camera's nodes, by the camera's name.

    Raises:
        ParameterError: several cameras would share a topic, {camera} is used without camera names,
            or a topic is not a valid name.
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
    """Return all remapping rules of a launch file's nodes, with the robot's own tf.

    A relative target, as in Nav2's /tf:=tf, would end up in the namespace of each camera, where
    nobody publishes: the robot's namespace is meant.

    Args:
        tf: topic of tf, with tf_static beside it; empty: as the rules have it.
        namespace: namespace of the robot, absolute; '' is the root.
        rules: rules from outside, as launch_ros's SetRemap keeps them.

    Raises:
        ParameterError: tf is not a valid topic name.
    """
    if tf:
        check_topic('tf', tf)
        own = [('/tf', tf), ('/tf_static', beside(tf, 'tf_static'))]
        rules = [*own, *rules]  # the first rule that matches counts
    return [
        (name, f'{namespace}/{topic}')
        if name in ('/tf', '/tf_static') and not topic.startswith('/') else (name, topic)
        for name, topic in rules
    ]


def check_topic(argument: str, topic: str) -> None:
    """Raise ParameterError unless an argument is a valid topic name, absolute or relative."""
    if not TOPIC_NAME.fullmatch(topic):
        raise ParameterError(
            f'{argument} is {topic!r}, which is not a valid topic name; expected names of '
            f'letters, digits and _ that do not begin with a digit, separated by /, as in '
            f'/camera/image_raw'
        )


def beside(topic: str, name: str) -> str:
    """Return the topic called `name` in the same namespace as another topic."""
    return re.sub('[^/]*$', name, topic, count=1)


def write_parameters(sections: dict[str, dict[str, Any]]) -> list[str]:
    """Write a temporary parameter file, as launch_ros does; return its path, [] if it is empty.

    Args:
        sections: parameters by the node's full name, because such a section overrides those of
            other files, whatever these match. Parameters that a node lacks are left out.
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
        json.dump(tree, file)  # JSON is YAML too
    return [file.name]
