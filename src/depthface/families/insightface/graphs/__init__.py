"""From published ONNX files of InsightFace to the graphs that are served.

reading   a file from anywhere, read without trusting it
kinds     what a file is, and what it is fed with
scrfd     a detector: photos in, faces out
crops     the networks behind it: crops of faces in, answers out
surgery   how a network is taken apart and put into a larger graph
"""
