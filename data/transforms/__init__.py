"""How the papers prepare images: `basic` holds what several share, one more file each other policy."""
