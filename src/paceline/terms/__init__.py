"""The nouns: frozen values without I/O, each defined once. Every other package imports them."""
