"""The server's side: the embedded Triton, its onnxruntime backend, the glue of Python steps, the watchdog."""
