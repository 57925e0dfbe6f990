"""From labelled data to an adapter file."""
