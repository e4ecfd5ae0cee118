"""One file per question that is asked of a model; each states its definition and source."""
