"""The bundled experiments: each module reproduces one, from data to figure, and is a command."""
