"""Images and pages: overlays, galleries, plots."""
