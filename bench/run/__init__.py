"""One run of the harness: what is asked for, how it is carried out, how it is reported."""
