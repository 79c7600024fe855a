"""Tests that need GGUF libraries and real pretrained models; they have an environment, `tox run -e real`."""
