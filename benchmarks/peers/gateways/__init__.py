"""The gateways that ours is compared with: how each is installed, started, asked and stopped."""
