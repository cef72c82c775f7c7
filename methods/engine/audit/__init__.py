"""An audit: where a model looks, what it relies on, and whether its map can be trusted, in one result and one page."""
