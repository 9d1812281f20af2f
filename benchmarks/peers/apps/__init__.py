"""What a user of each peer would write; it runs in the peer's environment, not in ours."""
