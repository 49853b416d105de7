"""Error analysis of detections."""
