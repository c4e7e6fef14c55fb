"""Jobs that outlive their caller: a queue in a database, workers, results in files."""
