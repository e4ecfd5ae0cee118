"""The explorer: attention maps per token, layer and head as a widget and as a page."""
