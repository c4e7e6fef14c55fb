"""CLIP: photos and sentences in one space."""
