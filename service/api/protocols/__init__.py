"""The same tasks by the protocols of others: Open Inference Protocol v2, TEI's and OpenAI's embeddings."""
