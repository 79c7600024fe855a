"""The study: its material, methods, tables and claims."""
