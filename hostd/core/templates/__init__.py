"""Which libraries are kept imported, and which loads start from them."""
