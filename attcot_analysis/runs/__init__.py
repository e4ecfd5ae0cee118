"""One model on one set of items in a folder: resumable, shared by processes, with provenance."""
