"""How the papers prepare pictures: `basic` holds what several share, one more file each other policy."""
