"""Average precision by the rules of PASCAL VOC and COCO, and its bootstrap intervals."""
