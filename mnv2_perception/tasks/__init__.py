"""Turn one RGB image into one result, for each task; find and open models. No ROS."""
