"""From a request's rows to its outputs: jobs, the pure scheduler, and the one engine thread."""
