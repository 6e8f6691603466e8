"""ROS 2 bags without ROS: read them, write them (rosbags only, no rclpy)."""
