from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = 'mnv2_perception'
REPOSITORY = f'https://github.com/mnv2-perception/{PACKAGE}'
SHARE = f'share/{PACKAGE}'


def files(folder, pattern):
    return sorted(str(path) for path in Path(folder).glob(pattern) if path.is_file())


setup(
    name=PACKAGE,
    version='0.3.0',
    packages=find_packages(include=[PACKAGE, f'{PACKAGE}.*']),
    package_data={PACKAGE: ['*/*.yaml', '*/*/*.yaml', 'report/page.*']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (SHARE, ['package.xml']),
        (f'{SHARE}/launch', files('launch', '*.launch.py')),
        (f'{SHARE}/config', files('config', '*.*')),
        (f'{SHARE}/config/foxglove', files('config/foxglove', '*.json')),
        (f'{SHARE}/config/rviz', files('config/rviz', '*.rviz')),
        (f'{SHARE}/models', files(f'{PACKAGE}/models', '*')),
    ],
    python_requires='>=3.10',
    extras_require={
        'foxglove': ['foxglove-sdk==0.30.3'],  # `--foxglove`
        'ray': ['ray==2.60.0'],  # `mnv2 bag run --ray`
        'test': ['pytest', 'pytest-timeout'],  # by which `colcon test` takes pytest
    },
    zip_safe=True,
    maintainer='The mnv2_perception developers',
    maintainer_email='maintainers@mnv2-perception.example',
    url=REPOSITORY,
    project_urls={'Bug Tracker': f'{REPOSITORY}/issues', 'Source': REPOSITORY},
    description='Camera perception for ROS 2 robots with the MobileNetV2 family.',
    license='Apache-2.0',
    entry_points={
        'console_scripts': [
            f'mnv2 = {PACKAGE}.cli.main:main',
            f'segmentation_node = {PACKAGE}.nodes.segmentation_node:main',
            f'classification_node = {PACKAGE}.nodes.classification_node:main',
            f'detection_node = {PACKAGE}.nodes.detection_node:main',
            f'costmap_node = {PACKAGE}.nodes.costmap_node:main',
            f'detection3d_node = {PACKAGE}.nodes.detection3d_node:main',
            f'perception = {PACKAGE}.nodes.perception:main',
            f'bag_player_node = {PACKAGE}.nodes.bag_player_node:main',
            f'bag_recorder_node = {PACKAGE}.nodes.bag_recorder_node:main',
        ],
    },
)
