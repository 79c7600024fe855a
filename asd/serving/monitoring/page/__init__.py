"""The live page of a server: rendered here as HTML, replaced in the browser every second."""
