"""What the live nodes are called and publish, as `perception` names it without a namespace."""

MASK, CONFIDENCE = '/segmentation/mask', '/segmentation/confidence'
LABEL_INFO, DIAGNOSTICS = '/segmentation/label_info', '/diagnostics'
DETECTIONS, CLASSIFICATION, GRID = '/detections', '/classification', '/grid'
NODE = 'segmentation_node'
DETECTION_MODEL, CLASSIFICATION_MODEL = 'ssdlite_mobilenetv2_camvid', 'mobilenetv2_camvid_surface'
GROUND = 'road'  # the class that costmap_node marks free; without it there is no grid
