"""Try models by hand: a page that this machine serves to its own browser."""
