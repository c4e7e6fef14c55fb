"""InsightFace: faces found, aligned, recognised and described."""
