"""The server's side: the embedded Triton, its two backends, the glue of the pipelines, the watchdog."""
