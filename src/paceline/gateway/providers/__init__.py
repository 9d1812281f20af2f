"""Who answers LLM calls: upstreams over HTTP, and the simulated one. Each is a `Provider`."""
