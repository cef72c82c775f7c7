"""Pictures and pages: overlays, galleries, plots."""
