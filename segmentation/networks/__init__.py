"""Networks by name, our own and those of libraries; `registry` builds them."""
