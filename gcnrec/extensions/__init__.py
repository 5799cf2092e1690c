"""Classes of other packages that a job names: found by entry point or by "package.module:Class", and made before data is read."""
