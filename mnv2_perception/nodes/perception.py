"""perception: run several nodes in one process, for one camera or for several.

Each image is received and decoded once, each model is opened once, and masks reach costmap_node in
memory. The nodes keep their names, parameters, topics and lifecycle.
"""

from importlib import import_module
import sys
from typing import Any

from rclpy.node import Node

from mnv2_perception.errors import ParameterError
from mnv2_perception.nodes.declare import check_names, declare, read
from mnv2_perception.nodes.lifecycle import PerceptionNode
from mnv2_perception.nodes.overrides import check_overrides
from mnv2_perception.nodes.parameters import CAMERA_NAME, PerceptionParameters, SHARING_NODES
from mnv2_perception.nodes.process import spin
from mnv2_perception.nodes.rclpy_private import ToughNode
from mnv2_perception.nodes.shared import Shared

NODE_CLASSES: dict[str, type[PerceptionNode[Any]]] = {
    name: getattr(import_module(f'{__package__}.{name}_node'), f'{name.title()}Node')
    for name in SHARING_NODES
}


class Perception(ToughNode):
    """Holds what the nodes of the process share, and knows which nodes to create."""

    def __init__(self, **kwargs: Any) -> None:
        self.shared = Shared()  # first: Kilted calls destroy_node if __init__ fails
        super().__init__('perception', **kwargs)
        declare(self, PerceptionParameters, read_only=True)
        check_overrides(self, PerceptionParameters, alone=False)
        values = read(self, PerceptionParameters)
        self.names = check_names('nodes', values.nodes, '|'.join(NODE_CLASSES))
        self.cameras = check_names('cameras', values.cameras, CAMERA_NAME)
        if not self.names:
            raise ParameterError(f'nodes is empty, expected some of {", ".join(NODE_CLASSES)}')

    def create_nodes(self, **kwargs: Any) -> list[PerceptionNode[Any]]:
        """Create the nodes of every camera; `kwargs` are passed to each of them."""
        namespace = self.get_namespace().rstrip('/')
        nodes = []
        for camera in self.cameras or ('',):
            for name in NODE_CLASSES:
                if name in self.names:
                    # Remappings of the process, such as launch's __node, would apply to all.
                    place = f'{namespace}/{camera}'.rstrip('/') or '/'
                    rules = f'__ns:={place}', f'__node:={name}_node'
                    arguments = [part for rule in rules for part in ('-r', rule)]
                    nodes.append(NODE_CLASSES[name](
                        shared=self.shared, cli_args=['--ros-args', *arguments], **kwargs
                    ))
        return nodes

    def destroy_node(self) -> None:
        self.shared.close()
        super().destroy_node()


def create() -> list[Node]:
    """Create all nodes of the process."""
    perception = Perception()
    return [perception, *perception.create_nodes()]


def main(args: list[str] | None = None) -> int:
    """Run the nodes until the process is told to stop."""
    return spin(create, args)


if __name__ == '__main__':
    sys.exit(main())
