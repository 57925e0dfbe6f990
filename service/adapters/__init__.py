"""What an adapter is: its manifest, its file, and the methods by which it enters the base."""
