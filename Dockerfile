# The package on a ROS distro, for x86-64 or arm64 without a GPU:
#   docker build -t mnv2_perception . && docker run --rm --network host mnv2_perception
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV PIP_BREAK_SYSTEM_PACKAGES=1
WORKDIR /ws
COPY . src/mnv2_perception
# What rosdep brings, from apt and pip; on Humble onnxruntime, which rosdep leaves out there.
# hadolint ignore=DL3008,DL3013
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-pip \
    && if [ "${ROS_DISTRO}" = humble ]; then pip install --no-cache-dir 'numpy<2' onnxruntime; fi \
    && rosdep update --rosdistro "${ROS_DISTRO}" \
    && PIP_NO_CACHE_DIR=1 rosdep install --from-paths src --ignore-src -y -t exec -t build -t buildtool \
    && rm -rf /var/lib/apt/lists/*
RUN . "/opt/ros/${ROS_DISTRO}/setup.bash" \
    && colcon build --packages-select mnv2_perception \
    && sed -i 's|^exec|source /ws/install/setup.bash\nexec|' /ros_entrypoint.sh
# ros2 launch leaves its nodes to be killed when it gets SIGTERM.
STOPSIGNAL SIGINT
CMD ["ros2", "launch", "mnv2_perception", "perception.launch.py", "image:=/camera/image_raw"]
