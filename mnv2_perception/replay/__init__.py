"""Run models on recordings without a ROS graph; the results are those that the nodes publish."""
