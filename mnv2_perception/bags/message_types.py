"""The type of a bag's messages, as the bag defines it. Unlike the bag it can be pickled."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.serde import SerdeError
from rosbags.typesys import (
    get_types_from_idl,
    get_types_from_msg,
    get_typestore,
    Stores,
    TypesysError,
)
from rosbags.typesys.store import Typestore

from mnv2_perception.bags.definitions import jazzy_types
from mnv2_perception.errors import BagError

IDL_SEPARATOR = '=' * 80 + '\nIDL: '


@dataclass(frozen=True)
class MessageType:
    """Deserialises messages of one type; can be pickled.

    Attributes:
        bag: path of the bag, for error messages.
        name: ROS 2 type, such as ``sensor_msgs/msg/Image``.
        definition: the bag's own definition of the type; None for Jazzy's.
    """

    bag: Path
    name: str
    definition: MessageDefinition | None

    def deserialize(self, topic: str, cdr: bytes) -> Any:
        """Return an object with the message's fields as attributes; number arrays are numpy's.

        Args:
            topic: topic of the message, for error messages.
            cdr: the serialised message, encapsulation header included.

        Raises:
            BagError: the type is not known, or the bytes do not fit it.
        """
        try:
            return _store(self.name, self.definition).deserialize_cdr(cdr, self.name)
        except KeyError as exc:
            raise BagError(
                f'{self.bag}: {topic} has the type {self.name}, which neither the bag nor ROS 2 '
                f'Jazzy defines (missing: {exc.args[0]}); record the bag again as mcap, which '
                f'stores the definitions'
            ) from exc
        except (SerdeError, TypesysError) as exc:
            raise BagError(
                f'{self.bag}: a message of {topic} is not of the type {self.name} that the bag '
                f'states ({exc}); record the bag again with the types of one ROS distro'
            ) from exc


@lru_cache(maxsize=64)
def _store(name: str, definition: MessageDefinition | None) -> Typestore:
    if definition is None:
        return jazzy_types()
    typestore = get_typestore(Stores.EMPTY)
    for text in _split_definition(definition):
        if definition.format is MessageDefinitionFormat.IDL:
            typestore.register(get_types_from_idl(text))
        else:
            typestore.register(get_types_from_msg(text, name))
    return typestore


def _split_definition(definition: MessageDefinition) -> list[str]:
    """Split a text of several IDL files; .msg definitions stay one text."""
    if not definition.data.startswith(IDL_SEPARATOR):
        return [definition.data]
    parts = definition.data.split(IDL_SEPARATOR)[1:]
    return [part.split('\n', 1)[1] for part in parts]
