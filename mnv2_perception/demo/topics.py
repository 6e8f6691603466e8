"""What the live nodes are called and publish, as `perception` names it without a namespace."""

MASK, CONFIDENCE = '/segmentation/mask', '/segmentation/confidence'
LABEL_INFO, DIAGNOSTICS = '/segmentation/label_info', '/diagnostics'
DETECTIONS, CLASSIFICATION, GRID = '/detections', '/classification', '/grid'
NODE = 'segmentation_node'
