"""`mnv2 camera-pose`: compute a camera's pose from one picture."""

import argparse
import json
import math
from pathlib import Path
import re
import sys
from types import SimpleNamespace
from typing import Any, TYPE_CHECKING

import yaml

from mnv2_perception.cli.options import (
    add_command,
    add_force,
    add_json,
    check_output,
    Number,
)
from mnv2_perception.data.images import read_image, write_image
from mnv2_perception.errors import CalibrationError, ImageError
from mnv2_perception.model_spec import read_plain_yaml

if TYPE_CHECKING:
    from mnv2_perception.cli.options import Commands
    from mnv2_perception.vision.camera import Camera

# Names in a CameraInfo, and in the YAML of camera_calibration.
MATRICES = {
    'd': 'distortion_coefficients', 'k': 'camera_matrix', 'r': 'rectification_matrix',
    'p': 'projection_matrix',
}
METRES = Number(float, 0.0, 1000.0, above=True)


def add(commands: 'Commands') -> None:
    """Add the command."""
    pose = add_command(
        commands, 'camera-pose', camera_pose_command,
        "Compute a camera's pose from one picture of the floor.",
        'A checkerboard that lies on the floor gives height, pitch and roll; lines on the floor '
        'at known distances give height and pitch. Prints parameters of costmap_node.',
    )
    pose.add_argument('image', type=Path, help='a picture that the camera took, in its full size')
    calibration = pose.add_mutually_exclusive_group(required=True)
    calibration.add_argument(
        '--camera-info', type=Path, metavar='FILE',
        help="file with the camera's calibration: the YAML of camera_calibration, or the output "
        'of `ros2 topic echo --once …/camera_info`',
    )
    calibration.add_argument(
        '--camera-fov', type=Number(float, 0.0, 3.1, above=True), metavar='RADIANS',
        help='horizontal field of view in radians, for a camera without calibration',
    )
    known = pose.add_mutually_exclusive_group(required=True)
    known.add_argument(
        '--board', type=board_size, metavar='COLUMNSxROWS',
        help='number of inner corners of the checkerboard, such as 8x6',
    )
    known.add_argument(
        '--floor-line', type=Number(float, 0.0, 100_000.0), nargs=2, action='append',
        metavar=('ROW', 'METRES'),
        help='a line on the floor across the view: the row, in pixels, where it crosses the '
        'middle column of the picture, and its distance from the point below the camera, in '
        'metres. Give two or more, or one with --camera-height',
    )
    pose.add_argument(
        '--square', type=METRES, default=0.03, metavar='METRES',
        help="side of the board's squares in metres, measured on the print (default: %(default)s)",
    )
    pose.add_argument(
        '--camera-height', type=METRES, metavar='METRES',
        help='measured height of the camera above the floor in metres, for --floor-line',
    )
    pose.add_argument(
        '--rectified', action='store_true', help='the picture is rectified, as those of image_rect'
    )
    pose.add_argument(
        '--out', type=Path, metavar='FILE',
        help='also write the picture with the floor drawn on it, to this .png or .jpg file',
    )
    add_json(pose)
    add_force(pose)


def board_size(text: str) -> tuple[int, int]:
    """Parse columns and rows of inner corners.

    Raises:
        ArgumentTypeError: the text is not COLUMNSxROWS, or one is below 3.
    """
    found = re.fullmatch(r'(\d{1,3})[x×](\d{1,3})', text)
    size = (int(found[1]), int(found[2])) if found else (0, 0)
    if min(size) < 3:
        raise argparse.ArgumentTypeError(
            f'got {text[:40]!r}, expected inner corners as COLUMNSxROWS, 3 or more each'
        )
    return size


def camera_pose_command(arguments: argparse.Namespace) -> None:
    """Print the pose as parameters of costmap_node, and optionally draw it."""
    from mnv2_perception.vision import camera_pose
    from mnv2_perception.vision.camera import Camera

    if not arguments.image.is_file():
        raise ImageError(f'{arguments.image}: no such file')
    if arguments.out:
        check_output(arguments.out, arguments.force, [arguments.image], ['.png', '.jpg'])
    image = read_image(arguments.image)
    height, width = image.shape[:2]
    if arguments.camera_info:
        camera = read_camera(arguments.camera_info, arguments.rectified)
        camera.require_size(height, width)
    else:
        camera = Camera.from_fov(height, width, arguments.camera_fov)
    if arguments.board:
        columns, rows = arguments.board
        corners = camera_pose.find_board(image, columns, rows)
        found = camera_pose.pose_from_board(camera, corners, columns, rows, arguments.square)
    else:
        rows_px, distances_m = zip(*arguments.floor_line, strict=True)
        found = camera_pose.pose_from_lines(
            camera, rows_px, distances_m, arguments.camera_height
        )
    if arguments.json:
        print(json.dumps(vars(found), indent=2))
    else:
        print(f'# {math.degrees(found.pitch_rad):.1f}° down, rolled by '
              f'{math.degrees(found.roll_rad):.1f}°; {found.error_px:.2f} pixels unexplained')
        print(f'camera_z_m: {found.height_m:.3f}')
        print(f'camera_pitch_rad: {found.pitch_rad:.4f}')
        print(f'camera_roll_rad: {found.roll_rad:.4f}')
    if arguments.out:
        overlay = camera_pose.draw_floor(image, camera, found)
        write_image(arguments.out, overlay)
        print(arguments.out)


def read_camera(path: Path, rectified: bool) -> 'Camera':
    """Read a calibration written by camera_calibration or `ros2 topic echo`; print what looks odd.

    Raises:
        CalibrationError: the file is no calibration.
        ModelError: the file is no short text, or has YAML aliases.
    """
    from mnv2_perception.vision.camera import Camera, oddity

    try:
        values: Any = next(yaml.safe_load_all(read_plain_yaml(path)), None)
        if 'camera_matrix' in values:
            values = {'height': values['image_height'], 'width': values['image_width'],
                      'distortion_model': values['distortion_model'],
                      **{short: values[name]['data'] for short, name in MATRICES.items()}}
        roi = {**dict.fromkeys(('x_offset', 'y_offset', 'height', 'width'), 0),
               **values.get('roi', {})}
        info: Any = SimpleNamespace(
            distortion_model=values['distortion_model'],
            roi=SimpleNamespace(**{name: int(value) for name, value in roi.items()}),
            **{name: int(values[name]) for name in ('height', 'width')},
            **{name: int(values.get(name, 0)) for name in ('binning_x', 'binning_y')},
            **{name: [float(value) for value in values[name]] for name in MATRICES},
        )
        camera = Camera.from_info(info, rectified)
    except (AttributeError, KeyError, OSError, TypeError, ValueError, yaml.YAMLError) as exc:
        reason = f'{type(exc).__name__}: {" ".join(str(exc).split())}'
        raise CalibrationError(
            f'{path}: is not a calibration ({reason}); give the YAML of camera_calibration, or '
            f'what `ros2 topic echo --once camera_info` prints'
        ) from exc
    if odd := oddity(info, camera):
        print(f'{path}: {odd}', file=sys.stderr)
    return camera
