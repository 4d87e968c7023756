"""HTTP on 127.0.0.1: connections, authentication, requests and responses."""
