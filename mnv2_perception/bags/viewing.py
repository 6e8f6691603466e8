"""The Foxglove server on which a played bag can be watched: its address and its package."""

import argparse
import importlib.util
import re

from mnv2_perception.errors import ParameterError, SetupError

FOXGLOVE_SDK = 'foxglove-sdk==0.30.3'
# Reachable from this machine only: whoever can connect sees all that the robot sees.
HOST, PORT = '127.0.0.1', 8765


def viewer_address(text: str) -> tuple[str, int]:
    """Return the (host, port) that `8765`, `0.0.0.0:8765` or `[::]:8765` names.

    Raises:
        ParameterError: the text is no such address.
    """
    found = re.fullmatch(r'(?:(\[[0-9a-fA-F:.]+\]|[\w.-]+):)?(\d{1,5})', text, re.ASCII)
    if not found or not 0 < int(found[2]) < 65536:
        raise ParameterError(
            f'foxglove: got {text[:80]!r}, expected PORT or HOST:PORT, such as {PORT} or '
            f'0.0.0.0:{PORT}'
        )
    return (found[1] or HOST).strip('[]'), int(found[2])


def add_viewer_option(parser: argparse.ArgumentParser) -> None:
    """Add `--foxglove` to a command that plays a bag."""

    def address(text: str) -> str:
        try:
            viewer_address(text)
        except ParameterError as exc:
            raise argparse.ArgumentTypeError(
                f'{exc}; put other arguments before --foxglove'
            ) from exc
        return text

    parser.add_argument(
        '--foxglove', nargs='?', const=str(PORT), type=address, metavar='[HOST:]PORT',
        help=f'serve the whole graph to Foxglove at this address (without a value: {HOST}:{PORT}; '
        'default: do not)',
    )


def check_viewer() -> None:
    """Check that the Foxglove SDK is installed.

    Raises:
        SetupError: it is not installed.
    """
    if importlib.util.find_spec('foxglove') is None:
        raise SetupError(
            f'--foxglove needs the Foxglove SDK, which is not installed: pip install '
            f'{FOXGLOVE_SDK}'
        )
