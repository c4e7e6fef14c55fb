"""Depth Anything V2: relative inverse depth from one photo (Yang et al., 2024, arXiv:2406.09414)."""
