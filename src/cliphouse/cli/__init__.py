"""The shell: parses, calls the collection, prints. Nothing here checks what the library does not check."""
