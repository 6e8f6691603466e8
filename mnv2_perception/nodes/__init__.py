"""ROS 2 nodes: conversion and wiring only. One node is one file is one class."""
