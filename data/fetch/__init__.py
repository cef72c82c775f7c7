"""Getting archives: what is needed, downloads that resume, unpacking that is safe."""
