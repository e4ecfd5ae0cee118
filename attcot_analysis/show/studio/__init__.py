"""The studio: ask a model about a picture, watch it write, and change what it sees."""
