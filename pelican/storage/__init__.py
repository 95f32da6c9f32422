"""Where everything large lives: a store of objects, and the manifests that commit a stage."""
