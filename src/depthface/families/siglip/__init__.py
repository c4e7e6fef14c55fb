"""SigLIP 2: photos and sentences of many languages in one space."""
