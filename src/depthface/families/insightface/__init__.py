"""InsightFace: faces found, aligned, described, compared and swapped (Guo et al., insightface 2.1)."""
