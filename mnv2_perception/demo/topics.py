"""Names of the live nodes and their topics, as in `perception` without a namespace."""

MASK, CONFIDENCE = '/segmentation/mask', '/segmentation/confidence'
LABEL_INFO, DIAGNOSTICS = '/segmentation/label_info', '/diagnostics'
DETECTIONS, CLASSIFICATION, GRID = '/detections', '/classification', '/grid'
NODE = 'segmentation_node'
