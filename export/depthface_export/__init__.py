"""From published weights to a model repository: one module an arrow, named for what it turns into what."""
