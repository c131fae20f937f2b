"""A module a layout: how a data set lies on disk. `pipeline.config.Layout` says what one is, `LAYOUTS` lists these."""
