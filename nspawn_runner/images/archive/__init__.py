"""Images from archives and to them."""
