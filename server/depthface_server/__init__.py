"""The server's side: the embedded Triton, its onnxruntime backend, the glue of the pipelines, the watchdog."""
