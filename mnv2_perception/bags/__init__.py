"""Read and write ROS 2 bags without ROS (with rosbags; never rclpy)."""
