"""What a person sees: plain data, drawn as a page or on the terminal."""
