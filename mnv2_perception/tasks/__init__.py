"""One RGB image in, one result out, for each task; models found and opened. No ROS."""
