"""A scorer behind HTTP: `assay serve`."""
