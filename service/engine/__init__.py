"""One frozen base, many adapters: rows of any tasks in, their outputs out."""
