"""HTTP/1.1 on sockets: connections and the answers that go out on them. Knows no routes."""
